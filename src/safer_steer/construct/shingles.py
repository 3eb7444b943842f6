"""All pairs of texts with Jaccard ≥ t over word shingles: exact, by prefix and positional filtering, in numpy.

Sort every text's shingles by one common order, rarest first. Two texts of n and m shingles with Jaccard ≥ t share at
least `o = ⌈t/(1+t)·(n+m)⌉`, so (1) they share one among the first `n − ⌈t·n⌉ + 1` of each, and (2) where the first
shared one stands at places i and j, `1 + min(n−i−1, m−j−1) ≥ o`; (3) each bit in which their 512-bit maps of hashed
shingles differ stands for a shingle that only one of them has, of which there may be `n + m − 2o`. What passes all
tests is compared exactly. Unlike with MinHash no pair is missed: the result is what comparing every pair would give.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import count

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
        self._ids: defaultdict[str, int] = defaultdict(count(1).__next__)

    def __call__(self, text: str) -> Shingles:
        words = [*map(self._ids.__getitem__, _WORD.findall(text.casefold()))]
        if len(self._ids) >= 1 << _BITS:
            raise OverflowError("more than two million distinct words")
        w = np.array(words + [0] * (SHINGLE - len(words)), dtype=np.int64)
        packed = (w[:-2] << 2 * _BITS) | (w[1:-1] << _BITS) | w[2:]
        packed.sort()
        return packed[np.diff(packed, prepend=-1) > 0]  # as np.unique, in a third of its time for texts this short


def jaccard(a: Shingles, b: Shingles) -> float:
    """|a ∩ b| / |a ∪ b| of two non-empty sets."""
    shared = int(np.intersect1d(a, b, assume_unique=True).size)
    return shared / (a.size + b.size - shared)


def near_duplicates(texts: Iterable[str], threshold: float) -> list[Duplicate]:
    """Every text whose Jaccard with some earlier *kept* text is at least `threshold`, and which one (the first).

    Texts are taken in order: the first of a cluster stays. The result is in their order too. Raises `ValueError` unless
    0 < threshold ≤ 1.
    """
    shingler = Shingler()
    return near_duplicate_sets([shingler(text) for text in texts], threshold)


def near_duplicate_sets(
    sets: Sequence[Shingles], threshold: float, groups: Sequence[int] | None = None
) -> list[Duplicate]:
    """`near_duplicates` of texts that are shingled already.

    With `groups` (one number a text, never falling) only what crosses them: every text that repeats some text of an
    earlier group, be that one a repeat itself or not, since nothing is taken away.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a near-duplicate threshold lies in (0, 1], not {threshold}")
    if len(sets) < 2:
        return []
    found: list[Duplicate] = []
    search = _Search(sets, threshold, groups)
    entries, begin = _prefixes(sets, search.sizes, threshold), 0
    while entries.item.size:
        block = entries.block(begin)
        begin = int(block.item.max()) + 1
        found += search.verified([search.among(block)])
        entries = entries.where(entries.item >= begin)  # those before are kept for good, or gone
        kept = block.where(~search.taken[block.item])
        found += search.verified(search.between(entries, kept))
        entries = entries.where(~search.taken[entries.item])
    return sorted(found, key=lambda duplicate: duplicate.item)


@dataclass(frozen=True, slots=True)
class _Entries:
    """The index: which shingle (by rank) stands at which place of which item's prefix; sorted by rank, then item."""

    rank: Ints
    item: Ints
    place: Ints

    def where(self, stays: NDArray[np.bool_]) -> _Entries:
        return _Entries(self.rank[stays], self.item[stays], self.place[stays])

    def earlier(self) -> Ints:
        """For every entry, how many with the same shingle stand before it: its partners, right before it."""
        number = np.arange(self.rank.size)
        starts = np.flatnonzero(np.diff(self.rank, prepend=-1))
        return number - np.repeat(starts, np.diff(starts, append=self.rank.size))

    def block(self, begin: int) -> _Entries:
        """The first items from `begin` on whose pairs with one another are few enough for one go; at least one."""
        pairs = np.cumsum(np.bincount(self.item - begin, weights=self.earlier()))
        end = begin + int(np.searchsorted(pairs, _BUDGET, side="right"))
        return self.where(self.item < max(end, int(self.item.min()) + 1))


@dataclass(slots=True)
class _Search:
    """What is known of the sets, which of them repeat another one (`gone`), and which of those are `taken` away.
    Sets of one `side` are not compared.

    Items are decided in blocks. Those of a block are compared with each other, in order; then what is kept of it with
    everything after it, so that a large cluster leaves with its first member and is never compared with itself.
    """

    sets: Sequence[Shingles]
    threshold: float
    groups: InitVar[Sequence[int] | None]
    sizes: Ints = field(init=False)
    maps: Maps = field(init=False)
    gone: NDArray[np.bool_] = field(init=False)
    taken: NDArray[np.bool_] = field(init=False)
    side: Sequence[int] = field(init=False)

    def __post_init__(self, groups: Sequence[int] | None) -> None:
        self.sizes = np.array([own.size for own in self.sets], dtype=np.int64)
        self.maps = _maps(self.sets)
        self.gone = np.zeros(len(self.sets), dtype=bool)
        if groups is None:  # every text stands for itself, and what repeats one is taken away
            self.side, self.taken = range(len(self.sets)), self.gone
        else:
            self.side, self.taken = groups, np.zeros_like(self.gone)

    def among(self, block: _Entries) -> list[tuple[int, int]]:
        """The candidates among a block's items: (item, earlier item), sorted."""
        partners = block.earlier()
        right = np.repeat(np.arange(block.item.size), partners)
        return self._near(block, right, block, right - 1 - _counting(partners))

    def between(self, later: _Entries, kept: _Entries) -> Iterator[list[tuple[int, int]]]:
        """The candidates (later item, kept item), sorted, in as many goes as it takes."""
        first, last = (np.searchsorted(kept.rank, later.rank, side=side) for side in ("left", "right"))
        pairs = np.cumsum(np.bincount(later.item, weights=last - first)) if later.item.size else np.zeros(0)
        begin = 0
        while begin < pairs.size:
            done = pairs[begin - 1] if begin else 0.0
            end = max(begin + 1, int(np.searchsorted(pairs, done + _BUDGET, side="right")))
            own = np.flatnonzero((later.item >= begin) & (later.item < end) & (last > first))
            partners = (last - first)[own]
            left = np.repeat(first[own], partners) + _counting(partners)
            yield self._near(later, np.repeat(own, partners), kept, left)
            begin = end

    def _near(self, rights: _Entries, right: Ints, lefts: _Entries, left: Ints) -> list[tuple[int, int]]:
        """The pairs of items, out of pairs of entries, that pass all tests."""
        n, m = self.sizes[rights.item[right]], self.sizes[lefts.item[left]]
        most = np.minimum(n - rights.place[right], m - lefts.place[left])
        passes = most >= self._least(n, m)
        keys = np.unique((rights.item[right[passes]] << 32) | lefts.item[left[passes]])
        item, of = keys >> 32, keys & 0xFFFFFFFF
        apart = np.bitwise_count(self.maps[item] ^ self.maps[of]).sum(axis=1, dtype=np.int64)
        near = apart <= self.sizes[item] + self.sizes[of] - 2 * self._least(self.sizes[item], self.sizes[of])
        return list(zip(item[near].tolist(), of[near].tolist(), strict=True))

    def _least(self, n: Ints, m: Ints) -> Ints:
        """How many shingles two sets of n and m must share."""
        least: Ints = np.ceil(self.threshold / (1 + self.threshold) * (n + m) - _EPS).astype(np.int64)
        return least

    def verified(self, goes: Iterable[list[tuple[int, int]]]) -> Iterator[Duplicate]:
        """The items of sorted pairs that do repeat a kept one; marks them in `gone`."""
        for pairs in goes:
            for item, of in pairs:
                if self.gone[item] or self.taken[of] or self.side[item] == self.side[of]:
                    continue
                similarity = jaccard(self.sets[item], self.sets[of])
                if similarity >= self.threshold:
                    self.gone[item] = True
                    yield Duplicate(item, of, similarity)


def _counting(runs: Ints) -> Ints:
    """0, 1, … for each run: `[2, 3]` gives `[0, 1, 0, 1, 2]`."""
    return np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)


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
