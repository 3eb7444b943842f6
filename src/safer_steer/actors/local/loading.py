"""Model folders to (model, processor): the embedded student, other vision-language models, text-only ones."""

from __future__ import annotations

import inspect
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
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

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
        return model.eval(), _processor(path, type(config))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(path)


def _processor(path: Path, config: type) -> Any:
    """The model's processor; where a video processor is missing only because torchvision is, one for images alone."""
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError, ImportError):
        if is_torchvision_available() or config not in PROCESSOR_MAPPING:
            raise
        return without_videos(PROCESSOR_MAPPING[config]).from_pretrained(path)


def without_videos(family: Any) -> Any:
    """The processor class `family` for texts and images only: it can be made and saved without torchvision."""

    class ImageOnly(family):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    ImageOnly.__name__ = ImageOnly.__qualname__ = family.__name__  # what is saved names the family
    return ImageOnly


def check_supported(model: Any, where: str) -> None:
    """Raise `WeightsError` for models whose tokens are not one plain sequence with full attention.

    The engine shows every token all earlier ones, which would be silently wrong for sliding or linear attention. It
    knows positions of images in two dimensions from `get_rope_index`, if that tells images by their token type.
    """
    hint = "serve this model (vLLM, SGLang) and name it as openai:MODEL@BASE_URL"
    for module in model.modules():
        if hasattr(module, "get_rope_index"):
            known = inspect.signature(module.get_rope_index).parameters
            if "mm_token_type_ids" not in known or "image_grid_thw" not in known:
                raise WeightsError("its images have positions that this engine does not know", where=where, hint=hint)
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise WeightsError(f"it has layers of kind {sorted(kinds - {'full_attention'})}", where=where, hint=hint)
    window = getattr(text, "sliding_window", None)
    if window is not None and window < text.max_position_embeddings and getattr(text, "use_sliding_window", True):
        raise WeightsError(f"its attention slides over {window} tokens", where=where, hint=hint)


def check_head(model: Any, where: str | Path) -> None:
    """Raise `WeightsError` for a model that does something to its logits after its head (scaling, capping).

    Training takes log-probabilities from the head itself, only where they are needed: they would be another policy's.
    Two tokens go through the model to find out, and the logits after the first are compared.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise WeightsError(f"{type(model).__name__} has no output embeddings", where=where, hint=_HINT)
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.ones(1, 2, dtype=torch.long, device=head.weight.device)).logits
    finally:
        handle.remove()
    if not torch.allclose(seen[0].float(), logits.float(), rtol=1e-3, atol=1e-4):
        hint = "the engines here train models whose head gives the logits as they are; evaluating this one works"
        raise WeightsError("it scales or caps its logits after the head", where=where, hint=hint)
