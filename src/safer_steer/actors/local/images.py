"""Images as a model reads them: the ids of their places and the tensors that fill them, kept by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from safer_steer.dialogue import ImageRef
from safer_steer.image_store import ImageStore

KEPT = 128
"""How many prepared images stay in memory (0.8 MB each at 256 pixels)."""

_TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, slots=True)
class ReadImage:
    """`ids` stand in the prompt; `tensors` (`pixel_values`, grids…) go to the model with them."""

    ids: tuple[int, ...]
    tensors: dict[str, Tensor]


class ImageReader:
    """Prepares images with a model's processor, each once; threads may share it.

    `piece` is the text that stands for one image in the model's chat template; the processor expands it.
    """

    def __init__(self, processor: Any, store: ImageStore, piece: str) -> None:
        self._processor, self._store, self._piece = processor, store, piece
        self._kept: OrderedDict[str, ReadImage] = OrderedDict()
        self._lock = Lock()

    def read(self, ref: ImageRef) -> ReadImage:
        """The image `ref`, prepared; raises `ImageError` when the store has lost it."""
        with self._lock:
            found = self._kept.get(ref.sha256)
            if found is not None:
                self._kept.move_to_end(ref.sha256)
                return found
        found = self._prepare(ref)  # by two threads at once, at worst
        with self._lock:
            self._kept[ref.sha256] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _prepare(self, ref: ImageRef) -> ReadImage:
        picture = self._store.open(ref)
        batch = self._processor(text=[self._piece], images=[picture], add_special_tokens=False, return_tensors="pt")
        ids = tuple(int(token) for token in batch["input_ids"][0])
        tensors = {key: value for key, value in batch.items() if key not in _TEXT_KEYS}
        if not tensors:
            raise ValueError("the processor made no pixels of the image")
        return ReadImage(ids, tensors)

    def tensors(self, refs: Sequence[ImageRef]) -> dict[str, Tensor]:
        """The tensors of several images, joined along the first dimension in their order; empty for none."""
        read = [self.read(ref).tensors for ref in refs]
        keys = read[0].keys() if read else ()
        return {key: joined([tensors[key] for tensors in read], tiled="pixel_attention_mask" in keys) for key in keys}

    def grids(self, refs: Sequence[ImageRef]) -> Tensor | None:
        """(images, 3) patches in time, height and width, for models that place them so; None for others."""
        found = [self.read(ref).tensors.get("image_grid_thw") for ref in refs]
        known = [grid for grid in found if grid is not None]
        return torch.cat(known) if known else None


def joined(tensors: Sequence[Tensor], *, tiled: bool) -> Tensor:
    """Several images' tensors as one, along the first dimension.

    `tiled` (Idefics3, SmolVLM): each is (1, tiles, …, height, width); tiles of all images follow each other in the
    second dimension, smaller ones filled up with zeros, which the model's attention mask for pixels leaves out.

    >>> joined([torch.ones(1, 2, 2), torch.ones(1, 2, 2)], tiled=False).shape
    torch.Size([2, 2, 2])
    >>> joined([torch.ones(1, 2, 3, 4, 4), torch.ones(1, 1, 3, 2, 4)], tiled=True).shape
    torch.Size([1, 3, 3, 4, 4])
    """
    if not tiled:
        return torch.cat(list(tensors))
    height, width = (max(tensor.shape[dim] for tensor in tensors) for dim in (-2, -1))
    sides = [(0, width - tensor.shape[-1], 0, height - tensor.shape[-2]) for tensor in tensors]
    return torch.cat([functional.pad(tensor, side) for tensor, side in zip(tensors, sides, strict=True)], dim=1)
