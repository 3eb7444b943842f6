"""The lower layers that no adapter touches: policy and reference agree up to there, so they are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from safer_steer.actors.local.packed import computing_by
from safer_steer.train.parts import sees


class Trunk:
    """The decoder layers of `model` below the first that learns; none if anything outside the decoder learns.

    Record what comes out of them in one pass, and let another pass over the same tokens take it from there.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = frozen_layers(model)

    @contextmanager
    def recording(self) -> Iterator[list[Any]]:
        """The list gets what the last of the layers returns."""
        seen: list[Any] = []
        if not self.layers:
            yield seen
            return
        handle = self.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def replaying(self, seen: list[Any]) -> Iterator[None]:
        """The layers return what was recorded instead of computing it. Nothing recorded: they compute."""
        layers = self.layers if seen else ()
        with computing_by([(layer, lambda *args, **kwargs: seen[-1]) for layer in layers]):
            yield


def frozen_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The first layers of the outermost list of layers that holds everything that learns, up to the first that does."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, layers in model.named_modules():  # outer modules come before inner ones
        if not isinstance(layers, nn.ModuleList) or sees(name) or not learning:
            continue
        if all(parameter.startswith(f"{name}.") for parameter in learning):
            first = min(int(parameter.removeprefix(f"{name}.").partition(".")[0]) for parameter in learning)
            return tuple(layers[:first])
    return ()
