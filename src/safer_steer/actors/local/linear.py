"""Matrix products through oneDNN: the same numbers, about twice as fast where the BLAS ignores AVX-512.

PyTorch sends `nn.Linear` in fp32 to a BLAS that picks its kernels by CPU vendor. On an AMD core with AVX-512 that
gave 104 GFLOP/s, oneDNN 195–260 (forward and both backward products; `benchmarks/decode.py` measures it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 64 * 64
"""Layers with fewer weights than this (LoRA factors of tiny models) gain nothing and stay as they are."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`, through oneDNN where it pays; no gradients."""
    if _fits(x) and _pays(weight):
        return _product(x, weight)
    return x @ weight.t()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`; strided inputs are read where they lie."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = gradients[0].flatten(0, -2)
        to_x = _product(gradients[0], weight.t()) if needs_x else None
        to_weight = _product(flat.t(), x.flatten(0, -2).t()) if needs_weight else None
        return to_x, to_weight, flat.sum(0) if needs_bias else None


def _fits(tensor: Tensor) -> bool:
    return tensor.dtype is torch.float32 and tensor.device.type == "cpu"


def _pays(weight: Tensor) -> bool:
    """Whether products by `weight` gain by oneDNN."""
    return torch.backends.mkldnn.is_available() and weight.numel() >= SMALLEST and _fits(weight)


class OneDnnLinear(nn.Linear):
    """`nn.Linear` whose fp32 products on the CPU, forward and backward, go through oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        if not (_fits(x) and _fits(self.weight)):
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _product(x, self.weight, self.bias)
        result: Tensor = _LinearFunction.apply(x, self.weight, self.bias)
        return result


def use_onednn(model: nn.Module) -> int:
    """Let every fp32 `nn.Linear` of `model` on the CPU compute through oneDNN from now on; returns how many.

    Weights, names and saving stay as they were; layers of any other class (quantised ones) are left alone.
    Call it again after adapters were added: it switches what is not switched yet.
    """
    plain = [module for module in model.modules() if type(module) is nn.Linear]
    large = [module for module in plain if _pays(module.weight)]
    for module in large:
        module.__class__ = OneDnnLinear
    return len(large)


def packed_product(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[..., Tensor]:
    """`x ↦ x @ weight.T + bias` over a copy of the weight laid out for about `rows` rows at once; no gradients.

    What is said beside x goes unheard: LoRA layers are told more.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.clone(), rows)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _product(x, packed, bias)

    return forward


class PackedLinear(nn.Module):
    """A linear layer that only reads, by `packed_product`."""

    def __init__(self, layer: OneDnnLinear, rows: int) -> None:
        super().__init__()
        self.forward = packed_product(layer.weight.detach(), layer.bias, rows)


def pack_for_reading(model: nn.Module, rows: int) -> int:
    """Put a `PackedLinear` in the place of every large fp32 `nn.Linear` of `model` on the CPU; returns how many.

    For good: the model neither learns nor is saved after that. No gradients, no memory beyond the weights'.
    """
    use_onednn(model)
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, OneDnnLinear)
    ]
    for parent, name, child in places:
        setattr(parent, name, PackedLinear(child, rows))
    return len(places)
