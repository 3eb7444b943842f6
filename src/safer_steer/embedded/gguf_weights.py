"""SmolLM2 out of its GGUF file: tensors, configuration, tokenizer."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from safer_steer.embedded.configuration import IMAGE_TOKEN

RESERVED_TOKEN = "<empty_output>"  # a special token that chat never uses: its id becomes the image's
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TYPE = 3  # the GGUF token type of special tokens


def llama_name(name: str) -> str:
    """The transformers name of a GGUF tensor.

    >>> llama_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo the interleaving of rotary halves that GGUF applies to query and key rows."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


class SmolLM2File:
    """A GGUF file of the Llama family, opened once."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(str(path))

    def field(self, name: str) -> Any:
        """A metadata value by its GGUF key."""
        return self._reader.fields[name].contents()

    def config(self) -> LlamaConfig:
        """Sizes and constants of the model."""
        return LlamaConfig(
            vocab_size=self.field("llama.vocab_size"),
            hidden_size=self.field("llama.embedding_length"),
            intermediate_size=self.field("llama.feed_forward_length"),
            num_hidden_layers=self.field("llama.block_count"),
            num_attention_heads=self.field("llama.attention.head_count"),
            num_key_value_heads=self.field("llama.attention.head_count_kv"),
            max_position_embeddings=self.field("llama.context_length"),
            rms_norm_eps=round(self.field("llama.attention.layer_norm_rms_epsilon"), 8),
            rope_parameters={"rope_type": "default", "rope_theta": self.field("llama.rope.freq_base")},
            tie_word_embeddings=True,
            bos_token_id=self.field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.field("tokenizer.ggml.eos_token_id"),
            pad_token_id=self.field("tokenizer.ggml.padding_token_id"),
        )

    def state(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """Dequantised float32 tensors under their transformers names (the tied head left out), those `wanted`."""
        from gguf.quants import dequantize

        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        state: dict[str, Tensor] = {}
        for tensor in self._reader.tensors:
            name, kind = llama_name(tensor.name), tensor.name.split(".")[-2]
            if wanted(name):
                stored = np.asarray(tensor.data)  # not a memory map, which slows every step of the arithmetic
                weight = torch.from_numpy(dequantize(stored, tensor.tensor_type).copy()).float()
                state[name] = unpermute(weight, self.field(heads[kind])) if kind in heads else weight
        return state

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The byte-level BPE tokenizer, left-padding, with the reserved token renamed to ``<image>``."""
        tokens = [IMAGE_TOKEN if t == RESERVED_TOKEN else t for t in self.field("tokenizer.ggml.tokens")]
        merges = [tuple(merge.split(" ")) for merge in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(BPE({t: i for i, t in enumerate(tokens)}, merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self.field("tokenizer.ggml.token_type")
        special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TYPE]
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        end = tokens[self.field("tokenizer.ggml.eos_token_id")]
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<|im_start|>",
            eos_token=end,
            pad_token=end,
            padding_side="left",
            extra_special_tokens=[t for t in special if t not in ("<|im_start|>", end)],
            model_max_length=self.field("llama.context_length"),
            clean_up_tokenization_spaces=False,
        )
