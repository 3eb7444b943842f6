"""Llama's pass written out for few tokens at a time, over weights in half precision: six tenths of transformers' time.

While writing, every weight is read for a handful of rows, so their bytes decide the speed: they are packed in fp16
(11 bits; what was trained in bf16 or fp16 loses nothing), multiplied and added up in fp32. And a layer of a small
model computes for a millisecond, for which transformers issues some fifty operations. Here are sixteen: projections
that read the same input are one product, rotary positions one complex multiplication (the rows of queries and keys
are paired for it when they are packed), and the heads that share keys stand in one query.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from safer_steer.actors.cores import CORES
from safer_steer.actors.local.packed import PackedWeights, Pass, effective, is_linear
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration
from safer_steer.embedded.seen import Trace, traces

_TIMES: Any = torch.ops.quantized.linear_dynamic_fp16
_PACK: Any = torch.ops.quantized.linear_prepack_fp16


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A weight (out, in) in fp16 and its bias, packed."""

    packed: Any

    @classmethod
    def of(cls, *layers: nn.Module, order: Tensor | None = None) -> _Matrix:
        """The layers side by side as one matrix; `order` rearranges its rows."""
        parts = [effective(layer) for layer in layers]
        weight = torch.cat([weight for weight, _ in parts])
        bias = None
        if any(part is not None for _, part in parts):
            bias = torch.cat([w.new_zeros(len(w)) if part is None else part.detach() for w, part in parts])
        if order is not None:
            weight, bias = weight[order], None if bias is None else bias[order]
        return cls(_PACK(weight.contiguous(), bias))

    def times(self, x: Tensor) -> Tensor:
        result: Tensor = _TIMES(x, self.packed)
        return result


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer, packed."""

    norm: Any
    queries_keys_values: _Matrix
    out: _Matrix
    norm_after: Any
    gate_up: _Matrix
    down: _Matrix

    @classmethod
    def of(cls, layer: Any, heads: int, shared: int, width: int) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        rotated = (heads + shared) * width
        # Rotary positions turn the numbers i and i + width/2 of a head together: put them side by side.
        pairs = torch.arange(rotated).view(-1, 2, width // 2).transpose(1, 2).flatten()
        order = torch.cat([pairs, torch.arange(rotated, rotated + shared * width)])
        return cls(
            layer.input_layernorm,
            _Matrix.of(attention.q_proj, attention.k_proj, attention.v_proj, order=order),
            _Matrix.of(attention.o_proj),
            layer.post_attention_layernorm,
            _Matrix.of(mlp.gate_proj, mlp.up_proj),
            _Matrix.of(mlp.down_proj),
        )


@dataclass(slots=True)
class _Piece:
    """A part of the model with its packed copy, and of which weights that is one."""

    module: nn.Module
    pack: Callable[[], Any]
    packed: Any = None
    seen: list[Trace] | None = None

    def refresh(self) -> None:
        """Pack anew if the weights have changed."""
        now = traces(self.module.parameters())
        if self.packed is None or now != self.seen:
            self.packed = None  # its memory first
            with torch.no_grad():
                self.packed, self.seen = self.pack(), now

    @property
    def learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.module.parameters())


class FusedWeights(PackedWeights):
    """The packed weights of a Llama-like language model, and its pass over them.

    Packing takes one core 3 s for the embedded student, so it is done on all, and only of what has changed.
    """

    def __init__(self, model: Any, decoder: Any) -> None:
        """`decoder` is what `decoder_of` finds in `model`."""
        super().__init__(model)
        self._decoder = decoder
        config = decoder.config
        self._heads, self._shared = config.num_attention_heads, config.num_key_value_heads
        self._width = decoder.layers[0].self_attn.head_dim
        shape = (self._heads, self._shared, self._width)
        head = model.get_output_embeddings()
        self._layers = [_Piece(layer, partial(_Layer.of, layer, *shape)) for layer in decoder.layers]
        self._head = _Piece(head, partial(_Matrix.of, head))

    def refresh(self) -> None:
        with ThreadPoolExecutor(CORES) as workers:
            for _ in workers.map(_Piece.refresh, [self._head, *self._layers]):  # the head is the largest
                pass
        self._note()

    def drop(self, *, fixed: bool = True) -> None:
        super().drop()
        for piece in (self._head, *self._layers):
            if fixed or piece.learns:
                piece.packed = None

    def run(self, asked: Pass) -> Tensor:
        x = _embedded(self._model, asked)
        cos, sin = self._decoder.rotary_emb(x, asked.positions)
        half = self._width // 2
        turn = torch.complex(cos[..., :half], sin[..., :half]).unsqueeze(2)  # (B, L, 1, half)
        unseen = torch.zeros_like(asked.visible, dtype=x.dtype).masked_fill_(~asked.visible, -torch.inf)
        unseen = unseen.repeat(1, self._heads // self._shared, 1)[:, None]
        for piece, slots in zip(self._layers, asked.cache.layers, strict=True):
            layer = piece.packed
            x = layer.out.times(self._attend(layer, slots, _normed(layer.norm, x), turn, unseen)).add_(x)
            gate, up = layer.gate_up.times(_normed(layer.norm_after, x)).chunk(2, -1)
            x = layer.down.times(F.silu(gate).mul_(up)).add_(x)
        logits: Tensor = self._head.packed.times(_normed(self._decoder.norm, x[:, -1]))
        return logits

    def _attend(self, layer: _Layer, slots: Any, x: Tensor, turn: Tensor, unseen: Tensor) -> Tensor:
        """(B, L, heads · width) of what the new tokens find. The heads that share keys are queries of one head, one
        head's L after the other's: `unseen` (B, 1, heads per shared one · L, S) says so too."""
        rows, new, _ = x.shape
        mixed = layer.queries_keys_values.times(x)
        rotated = (self._heads + self._shared) * self._width
        turned = torch.view_as_complex(mixed[..., :rotated].unflatten(-1, (-1, self._width // 2, 2))) * turn
        queries, keys = torch.view_as_real(turned).flatten(-2).split([self._heads, self._shared], 2)
        values = mixed[..., rotated:].unflatten(-1, (self._shared, self._width))
        keys, values = slots.update(keys.transpose(1, 2), values.transpose(1, 2))
        each = self._heads // self._shared
        grouped = queries.unflatten(2, (self._shared, each)).permute(0, 2, 3, 1, 4)
        flat = grouped.reshape(rows, self._shared, each * new, self._width)
        found = F.scaled_dot_product_attention(flat, keys, values, unseen)
        return found.view(rows, self._shared, each, new, self._width).permute(0, 3, 1, 2, 4).reshape(rows, new, -1)


def _normed(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _embedded(model: Any, asked: Pass) -> Tensor:
    embeddings: Tensor
    if isinstance(_inner(model), SteerVLMForConditionalGeneration):
        embeddings = model.embed(asked.ids, asked.images.get("pixel_values"))
    else:
        embeddings = model.get_input_embeddings()(asked.ids)
    return embeddings


def _inner(model: Any) -> nn.Module:
    """The model inside PEFT's wrapping."""
    inner: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def decoder_of(model: nn.Module) -> LlamaModel | None:
    """The Llama inside, if the fused pass computes just what the model would: fp32 on the CPU, through oneDNN."""
    inner: Any = _inner(model)
    if type(inner) not in (LlamaForCausalLM, SteerVLMForConditionalGeneration):
        return None
    decoder = next(module for module in inner.modules() if isinstance(module, LlamaModel))
    layers: list[Any] = list(decoder.layers)
    linear = [
        module
        for layer in layers
        for part in (layer.self_attn, layer.mlp)
        for name, module in part.named_children()
        if name.endswith("_proj")
    ]
    plain = all(type(layer) is LlamaDecoderLayer for layer in layers) and decoder.config.hidden_act == "silu"
    whole = all(map(is_linear, [*linear, inner.get_output_embeddings()]))
    return decoder if plain and whole and decoder.config.head_dim % 2 == 0 else None


@cache
def available() -> bool:
    """Whether this build of torch multiplies by packed fp16 weights: those for x86 do."""
    try:
        _TIMES(torch.zeros(1, 8), _PACK(torch.zeros(8, 8), None))
    except RuntimeError:
        return False
    return True


def weights_of(model: nn.Module, *, pack: bool) -> PackedWeights:
    """How `model` writes fastest; without `pack`, how it writes without a copy of its weights."""
    if pack and (decoder := decoder_of(model)) is not None and available():
        return FusedWeights(model, decoder)
    return PackedWeights(model, enabled=pack)
