"""Tiny random models of the families people train, as folders, each with its own template, images and positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from safer_steer.actors.local.loading import without_videos
from tiny_vlm import END, tiny_processor, tiny_student, tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A space after the colon, but none before an image; no space in the prompt for an answer.
SPACED = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}:"
    "{% else %}: {% endif %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<image>"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Answers end with a space and no token.
ENDLESS = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<image>\n{% endif %}{% endfor %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }} "
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def text_sizes(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": END, **more,
    }  # fmt: skip


def tokens(*special: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def qwen(
    config_class: Any, model_class: Any, processor_class: Any, vision: dict[str, Any], rope: dict[str, Any]
) -> Any:
    tokenizer = tokens("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    size = 2 * vision["patch_size"]
    images = Qwen2VLImageProcessorPil(
        patch_size=vision["patch_size"], min_pixels=size**2, max_pixels=size**2 * 6, temporal_patch_size=2, merge_size=2
    )
    processor = without_videos(processor_class)(images, tokenizer, chat_template=CHATML)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{place}|>") for name, place in (
        ("image_token_id", "image_pad"), ("video_token_id", "video_pad"),
        ("vision_start_token_id", "vision_start"), ("vision_end_token_id", "vision_end"),
    )}  # fmt: skip
    text = text_sizes(tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **rope})
    return model_class(
        config_class(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    ), processor


def qwen2_5_vl() -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
        "fullatt_block_indexes": [1], "window_size": 56, "initializer_range": 0.2,
    }  # fmt: skip
    rope = {"mrope_section": [1, 1, 2]}
    return qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, vision, rope)


def qwen3_vl() -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32, "patch_size": 16,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    rope = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return qwen(Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, vision, rope)


def idefics(config_class: Any, model_class: Any) -> Any:
    tokenizer = tokens("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=SPACED)
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14, "initializer_range": 0.2,
    }  # fmt: skip
    text = {"model_type": "llama", **text_sizes(tokenizer)}
    config = config_class(
        vision_config=vision, text_config=text, scale_factor=2, image_token_id=processor.image_token_id,
        tie_word_embeddings=False, pad_token_id=END,
    )  # fmt: skip
    return model_class(config), processor


def llava() -> Any:
    tokenizer = tokens("<image>")
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=ENDLESS,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=32, initializer_range=0.2,
    )  # fmt: skip
    text = LlamaConfig(**text_sizes(tokenizer))
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    return LlavaForConditionalGeneration(config), processor


def text_only() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return LlamaForCausalLM(LlamaConfig(**text_sizes(tokenizer))), tokenizer


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": lambda: idefics(Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": lambda: idefics(SmolVLMConfig, SmolVLMForConditionalGeneration),
    "llava": llava,
    "steer_vlm": lambda: (tiny_student(), tiny_processor()),
    "text_only": text_only,
}


def family(name: str) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its processor (the text-only family's tokenizer)."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    return model.eval(), processor


def family_folder(name: str, root: Path) -> Path:
    model, processor = family(name)
    model.save_pretrained(root / name)
    processor.save_pretrained(root / name)
    return root / name
