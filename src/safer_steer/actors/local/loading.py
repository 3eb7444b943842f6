"""Model folders to (model, processor): the embedded student, other vision-language models, text-only ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from safer_steer.embedded.build import MANIFEST, load_student, register
from safer_steer.errors import WeightsError

_HINT = "give the folder of a model saved with save_pretrained"


def load_model(path: Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """The model (eval mode, `dtype`) and its processor, or its tokenizer if it sees no images.

    Raises `WeightsError` when the folder is missing or is not a model that transformers can load.
    """
    student = _model_type(path) == "steer_vlm"
    try:
        if student and (path / MANIFEST).exists():
            return load_student(path)
        return _load_any(path, dtype)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise WeightsError(f"cannot be loaded: {error}", where=path, hint=_HINT) from error


def _model_type(path: Path) -> str:
    try:
        config = json.loads((path / "config.json").read_text())
        return str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("no readable config.json with a model_type", where=path, hint=_HINT) from error


def _load_any(path: Path, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    register()
    config = AutoConfig.from_pretrained(path)
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
        return model.eval(), AutoProcessor.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(path)
