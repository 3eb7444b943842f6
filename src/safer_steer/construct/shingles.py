"""All pairs of texts with Jaccard ≥ t over word shingles: exact, by prefix and positional filtering, in numpy.

Sort every text's shingles by one common order, rarest first. Two texts of n and m shingles with Jaccard ≥ t share at
least `o = ⌈t/(1+t)·(n+m)⌉`, so (1) they share one among the first `n − ⌈t·n⌉ + 1` of each, and (2) where the first
shared one stands at places i and j, `1 + min(n−i−1, m−j−1) ≥ o`; (3) each bit in which their 512-bit maps of hashed
shingles differ stands for a shingle that only one of them has, of which there may be `n + m − 2o`. What passes all
tests is compared exactly. Unlike with MinHash no pair is missed: the result is what comparing every pair would give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
"""Words in a shingle."""

_WORD = re.compile(r"\w+")
_BITS = 21  # three word numbers in 63 bits: equal integers are equal words, for up to two million distinct words
_BUDGET = 2_000_000  # pairs looked at in one go: bounds the memory
_EPS = 1e-9  # a product that is whole by rights must not be rounded up

_MAP_WORDS = 8  # of 64 bits, in a text's map
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # a multiplier that spreads similar integers over the high bits

Shingles = NDArray[np.int64]
Ints = NDArray[np.int64]
Maps = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Text number `item` is a near-duplicate of the kept, earlier text number `of`."""

    item: int
    of: int
    jaccard: float


class Shingler:
    """Turns texts into sorted arrays of distinct shingles, each packed into one integer (equal iff the words are).

    Case and punctuation do not count. A text of fewer than `SHINGLE` words is one shingle. Raises `OverflowError`
    past two million distinct words.

    >>> shingler = Shingler()
    >>> jaccard(shingler("What is in the picture?"), shingler("what is in the image"))
    0.5
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __call__(self, text: str) -> Shingles:
        ids = self._ids
        words = [ids.setdefault(word, len(ids) + 1) for word in _WORD.findall(text.casefold())]
        if len(ids) >= 1 << _BITS:
            raise OverflowError("more than two million distinct words")
        w = np.array(words + [0] * (SHINGLE - len(words)), dtype=np.int64)
        return np.unique((w[:-2] << 2 * _BITS) | (w[1:-1] << _BITS) | w[2:])


def jaccard(a: Shingles, b: Shingles) -> float:
    """|a ∩ b| / |a ∪ b| of two non-empty sets."""
    shared = int(np.intersect1d(a, b, assume_unique=True).size)
    return shared / (a.size + b.size - shared)


def near_duplicates(texts: Iterable[str], threshold: float) -> Iterator[Duplicate]:
    """Every text whose Jaccard with some earlier *kept* text is at least `threshold`, and which one (the first).

    Texts are taken in order: the first of a cluster stays. Raises `ValueError` unless 0 < threshold ≤ 1.
    """
    shingler = Shingler()
    yield from near_duplicate_sets([shingler(text) for text in texts], threshold)


def near_duplicate_sets(sets: Sequence[Shingles], threshold: float) -> Iterator[Duplicate]:
    """`near_duplicates` of texts that are shingled already."""
    if not 0 < threshold <= 1:
        raise ValueError(f"a near-duplicate threshold lies in (0, 1], not {threshold}")
    if len(sets) < 2:
        return
    sizes = np.array([own.size for own in sets], dtype=np.int64)
    entries = _prefixes(sets, sizes, threshold)
    maps = _maps(sets)
    gone = np.zeros(len(sets), dtype=bool)
    begin = 0
    while begin < len(sets):
        begin, pairs = _next_candidates(entries, sizes, maps, begin, threshold)
        found = [*_verified(pairs, sets, gone, threshold)]
        yield from found
        if found:
            entries = entries.without(gone)


@dataclass(frozen=True, slots=True)
class _Entries:
    """The index: which shingle (by rank) stands at which place of which item's prefix; sorted by rank, then item."""

    rank: Ints
    item: Ints
    place: Ints

    def without(self, gone: NDArray[np.bool_]) -> _Entries:
        stays = ~gone[self.item]
        return _Entries(self.rank[stays], self.item[stays], self.place[stays])

    def earlier(self) -> Ints:
        """For every entry, how many with the same shingle stand before it: its partners, right before it."""
        number = np.arange(self.rank.size)
        starts = np.flatnonzero(np.diff(self.rank, prepend=-1))
        return number - np.repeat(starts, np.diff(starts, append=self.rank.size))


def _prefixes(sets: Sequence[Shingles], sizes: Ints, threshold: float) -> _Entries:
    """The entries of all prefixes, less those of shingles that occur once and can match nothing."""
    owner = np.repeat(np.arange(len(sets)), sizes)
    _, shingle, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    rank_of = np.empty(counts.size, dtype=np.int64)
    rank_of[np.argsort(counts, kind="stable")] = np.arange(counts.size)
    order = np.argsort((owner << 32) | rank_of[shingle], kind="stable")
    place = np.arange(owner.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    length = sizes - np.ceil(threshold * sizes - _EPS).astype(np.int64) + 1
    shingle = shingle[order]
    useful = np.flatnonzero((place < length[owner]) & (counts[shingle] > 1))
    rank, item, place = rank_of[shingle[useful]], owner[useful], place[useful]
    by_rank = np.argsort(rank, kind="stable")
    return _Entries(rank[by_rank], item[by_rank], place[by_rank])


def _maps(sets: Sequence[Shingles]) -> Maps:
    """Of each set a map with the bits of its shingles' hashes set."""
    maps = np.zeros((len(sets), _MAP_WORDS), dtype=np.uint64)
    for own, row in zip(sets, maps, strict=True):
        places = (own.astype(np.uint64) * _SPREAD) >> np.uint64(55)
        np.bitwise_or.at(row, places >> np.uint64(6), np.uint64(1) << (places & np.uint64(63)))
    return maps


def _next_candidates(
    entries: _Entries, sizes: Ints, maps: Maps, begin: int, threshold: float
) -> tuple[int, list[tuple[int, int]]]:
    """The pairs (item, earlier item) that pass all tests, for the items from `begin` to the end that is returned."""
    earlier = entries.earlier()
    work = np.cumsum(np.bincount(entries.item, weights=earlier, minlength=sizes.size)[begin:])
    end = begin + max(1, int(np.searchsorted(work, _BUDGET, side="right")))
    own = np.flatnonzero((entries.item >= begin) & (entries.item < end) & (earlier > 0))
    partners = earlier[own]
    right = np.repeat(own, partners)
    left = right - 1 - (np.arange(right.size) - np.repeat(np.cumsum(partners) - partners, partners))
    n, m = sizes[entries.item[right]], sizes[entries.item[left]]
    most = np.minimum(n - entries.place[right], m - entries.place[left])
    passes = most >= _least(n, m, threshold)
    keys = np.unique((entries.item[right[passes]] << 32) | entries.item[left[passes]])
    item, of = keys >> 32, keys & 0xFFFFFFFF
    apart = np.bitwise_count(maps[item] ^ maps[of]).sum(axis=1, dtype=np.int64)
    near = apart <= sizes[item] + sizes[of] - 2 * _least(sizes[item], sizes[of], threshold)
    return end, list(zip(item[near].tolist(), of[near].tolist(), strict=True))


def _least(n: Ints, m: Ints, threshold: float) -> Ints:
    """How many shingles two sets of n and m must share."""
    least: Ints = np.ceil(threshold / (1 + threshold) * (n + m) - _EPS).astype(np.int64)
    return least


def _verified(
    pairs: Iterable[tuple[int, int]], sets: Sequence[Shingles], gone: NDArray[np.bool_], threshold: float
) -> Iterator[Duplicate]:
    """The items of sorted `pairs` that repeat a kept one; marks them in `gone`."""
    for item, of in pairs:
        if gone[item] or gone[of]:
            continue
        similarity = jaccard(sets[item], sets[of])
        if similarity >= threshold:
            gone[item] = True
            yield Duplicate(item, of, similarity)
