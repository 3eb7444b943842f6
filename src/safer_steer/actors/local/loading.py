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
    kind = _model_type(path)
    try:
        if kind == "steer_vlm" and (path / MANIFEST).exists():
            model, processor = load_student(path)
            return model.to(dtype), processor
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


def check_supported(model: Any, where: str) -> None:
    """Raise `WeightsError` for models whose tokens are not one plain sequence with full attention.

    The engine gives every token its place in the sequence as position and shows it all earlier tokens, which would
    be silently wrong for rotary positions in two dimensions (Qwen-VL) and for sliding or linear attention.
    """
    hint = "serve this model (vLLM, SGLang) and name it as openai:MODEL@BASE_URL"
    if any(hasattr(module, "get_rope_index") for module in model.modules()):
        raise WeightsError(
            "its images have positions in two dimensions, which this engine does not have", where=where, hint=hint
        )
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise WeightsError(f"it has layers of kind {sorted(kinds - {'full_attention'})}", where=where, hint=hint)
    window = getattr(text, "sliding_window", None)
    if window is not None and window < text.max_position_embeddings and getattr(text, "use_sliding_window", True):
        raise WeightsError(f"its attention slides over {window} tokens", where=where, hint=hint)
