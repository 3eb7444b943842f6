"""Weights laid out for writing: packed for oneDNN, adapters merged in, the model itself untouched.

A decoding step reads every weight for a few rows, so the layout of the weights decides its speed (measured on the
student, one thread: 60 → 42 ms a step at 8 rows, 116 → 104 ms at 32). The packed copy costs the weights' memory
once more; `LocalModel.exclusive` gives back what can learn while the model trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safer_steer.actors.local.cache import SlotCache
from safer_steer.actors.local.linear import OneDnnLinear, packed_product
from safer_steer.embedded.seen import Trace, traces

ROWS = 32
"""The number of rows the layout is chosen for; others work as well."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of B rows, L new tokens each, padded in front, over a cache aimed (`SlotCache.aim`) at S columns.

    `ids` (B, L), `visible` (B, L, S) says which columns each token sees, `positions` (B, L) or (3, B, L); `images` are
    the tensors of the pictures among the ids.
    """

    ids: Tensor
    visible: Tensor
    positions: Tensor
    images: dict[str, Tensor]
    cache: SlotCache


class PackedWeights:
    """Packed copies of a model's linear layers, made when first used and again when the weights have changed.

    Not `enabled`, it only watches whether they have changed.
    """

    def __init__(self, model: Any, *, enabled: bool = True) -> None:
        self._model, self._enabled = model, enabled
        self._seen: list[Trace] = []
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []

    @property
    def fresh(self) -> bool:
        """Whether the weights are those of the last `refresh`."""
        return self._seen == traces(self._model.parameters())

    def refresh(self) -> None:
        """Pack every layer anew."""
        self.drop()
        if self._enabled:
            with torch.no_grad():
                self._forwards = [(layer, packed_product(*effective(layer), ROWS)) for layer in _layers(self._model)]
        self._note()

    def _note(self) -> None:
        """These are the weights that were packed."""
        self._seen = traces(self._model.parameters())

    def drop(self, *, fixed: bool = True) -> None:
        """Give the memory back; not `fixed`, copies of what cannot learn may stay, to be looked at again."""
        self._forwards, self._seen = [], []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model compute with the packed weights."""
        with computing_by(self._forwards):
            yield

    def run(self, asked: Pass) -> Tensor:
        """(B, vocabulary) logits after each row's last token."""
        output = self._model(
            input_ids=asked.ids,
            attention_mask=asked.visible[:, None],
            position_ids=asked.positions,
            past_key_values=asked.cache,
            use_cache=True,
            logits_to_keep=1,
            **asked.images,
        )
        result: Tensor = output.logits[:, -1]
        return result


@contextmanager
def computing_by(forwards: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Let each module compute by the function beside it for a while."""
    for module, forward in forwards:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.forward


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost layers that are one linear map: plain ones, and those with LoRA adapters around them."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if is_plain_lora(module):
            inside.update(module.modules())
            yield module
        elif isinstance(module, OneDnnLinear):
            yield module


def is_plain_lora(module: Any) -> bool:
    """Whether the module is a linear layer with ordinary LoRA adapters, `W x + Σ B A x · scale` (PEFT's names)."""
    if not hasattr(module, "get_delta_weight") or not isinstance(module.base_layer, OneDnnLinear):
        return False
    return not module.lora_variant


def is_linear(module: Any) -> bool:
    """Whether `effective` knows what the module computes."""
    return isinstance(module, OneDnnLinear) or is_plain_lora(module)


def effective(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The weight of a linear layer with its adapters merged in, and its bias."""
    base = layer if isinstance(layer, OneDnnLinear) else layer.base_layer
    weight: Tensor = base.weight.detach()
    if base is not layer and not layer.disable_adapters and not layer.merged:
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                weight = weight + layer.get_delta_weight(adapter)
    return weight, base.bias
