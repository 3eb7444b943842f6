"""Images that look alike: a 64-bit perceptual hash (the signs of the lowest cosine frequencies), compared by bits.

The hash survives scaling, recompression, light noise and small marks, which change no low frequency's sign by much.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

BITS = 64
_SIDE = 32
_FLAT = 2.0  # of 255

Hashes = NDArray[np.uint64]


def perceptual_hash(image: Image.Image) -> int | None:
    """Which of the 8×8 lowest cosine frequencies of the grey 32×32 image lie above their median.

    `None` for an image that is one grey nearly everywhere: every such image would have the same hash.

    >>> ramp = Image.linear_gradient("L")
    >>> perceptual_hash(ramp) == perceptual_hash(ramp.resize((64, 64)))
    True
    >>> perceptual_hash(Image.new("L", (8, 8), 90)) is None
    True
    """
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), dtype=np.float64)
    if grey.std() < _FLAT:
        return None
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def distance(a: int, b: int) -> int:
    """In how many bits two hashes differ."""
    return (a ^ b).bit_count()


def alike(hashes: Sequence[int], others: Sequence[int], most: int) -> list[tuple[int, int]]:
    """All pairs (i, j) of `hashes[i]` and `others[j]` that differ in at most `most` bits, sorted; exact.

    Two hashes that differ in at most d bits agree in one of d+1 pieces: only those that do are compared.
    """
    if not hashes or not others:
        return []
    a, b = np.array(hashes, dtype=np.uint64), np.array(others, dtype=np.uint64)
    found: set[tuple[int, int]] = set()
    edges = np.linspace(0, BITS, most + 2).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64(((1 << int(high - low)) - 1) << int(low))
        found.update(_agreeing(a, b, mask, most))
    return sorted(found)


def _agreeing(a: Hashes, b: Hashes, mask: np.uint64, most: int) -> list[tuple[int, int]]:
    """The pairs within `most` bits among those that agree under `mask`."""
    order = np.argsort(b & mask, kind="stable")
    keys = (b & mask)[order]
    first, last = np.searchsorted(keys, a & mask, "left"), np.searchsorted(keys, a & mask, "right")
    pairs: list[tuple[int, int]] = []
    for i in np.flatnonzero(last > first):
        partners = order[first[i] : last[i]]
        near = partners[np.bitwise_count(b[partners] ^ a[i]) <= most]
        pairs.extend((int(i), int(j)) for j in near)
    return pairs
