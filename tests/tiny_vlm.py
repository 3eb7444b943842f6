"""A student of a few thousand weights with a byte tokenizer: real structure, random weights, instant."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, PreTrainedTokenizerFast

from safer_steer.embedded.configuration import IMAGE_TOKEN, SteerVLMConfig
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration
from safer_steer.embedded.processing import SteerVLMImageProcessor, SteerVLMProcessor

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN)
END, IMAGE = 2, 3
SIDE = 64


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate((*SPECIAL, *letters))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens=["<|endoftext|>", IMAGE_TOKEN],
        padding_side="left",
    )


def tiny_processor() -> SteerVLMProcessor:
    return SteerVLMProcessor(SteerVLMImageProcessor(SIDE), tiny_tokenizer(), image_tokens=16)


def tiny_student(seed: int = 0) -> SteerVLMForConditionalGeneration:
    """Weights large enough that what was read matters for what is written."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=END,
    )
    config = SteerVLMConfig(
        text,
        image_token_id=IMAGE,
        image_side=SIDE,
        vision_width=1.0,
        vision_depth=1.0,
        projector={"vocabulary": 5, "lexicon": 7},
    )
    return SteerVLMForConditionalGeneration(config).eval()
