"""Pictures that were looked at before: their features, kept for as long as the weights that made them stay.

A dialogue's picture comes again with every sample of its script, every pass of an update, every epoch and every
model of a run, and tower and projector (0.1–0.2 s a picture on a CPU core) make the same of it each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Trace = tuple[int, int, float]

KEPT = 1024
"""How many pictures are remembered in a process (37 KB each for the embedded student)."""

_kept: OrderedDict[tuple[bytes, bytes], Tensor] = OrderedDict()


class SeenPictures:
    """What tower and projector make of pictures, remembered by pixels and weights over all models of the process.

    `weights` gives everything that the features are made of besides the pixels. Only for passes that need no
    gradient towards it, and for pictures on the CPU: elsewhere comparing them costs more than looking again.
    """

    def __init__(self, weights: Callable[[], Iterable[Tensor]]) -> None:
        self._weights = weights
        self._seen: list[Trace] = []
        self._digest = b""

    def features(self, pixels: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        """(images, tokens, width) for `pixels` (images, 3, side, side), each picture looked at only if it is new."""
        made_by = self._made_by()
        keys = [(made_by, hashlib.sha256(image.contiguous().numpy().tobytes()).digest()) for image in pixels]
        found = []
        for key, image in zip(keys, pixels, strict=True):
            if key not in _kept:
                # Not an inference tensor: a training pass may want to use it later.
                with torch.inference_mode(False), torch.no_grad():
                    _kept[key] = look(image.clone().unsqueeze(0))[0]
            _kept.move_to_end(key)
            found.append(_kept[key])
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        return torch.stack(found)

    def _made_by(self) -> bytes:
        """The hash of the weights, made anew when one of them was replaced or written to."""
        weights = list(self._weights())
        now = traces(weights)
        if now != self._seen:
            digest = hashlib.sha256()
            for weight in weights:
                digest.update(weight.detach().contiguous().flatten().view(torch.uint8).numpy().data)
            self._seen, self._digest = now, digest.digest()
        return self._digest


def traces(weights: Iterable[Tensor]) -> list[Trace]:
    """What changes when weights are replaced or written to: place, version and, as fused optimisers do not count
    the version up, the first number of every one."""
    tensors = list(weights)
    firsts = torch.stack([tensor.detach().flatten()[0].float() for tensor in tensors]).tolist()
    return [(tensor.data_ptr(), tensor._version, first) for tensor, first in zip(tensors, firsts, strict=True)]
