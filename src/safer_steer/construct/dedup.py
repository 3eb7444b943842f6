"""Near-duplicate removal: exact Jaccard over word shingles, by prefix filtering.

Two texts whose shingle sets have Jaccard ≥ t must share a shingle among the first `n − ⌈t·n⌉ + 1` of each, when both
are sorted by one common order (rarest first). So only those few shingles are indexed, every candidate is compared
exactly, and, unlike with MinHash, no pair is missed: the result is what comparing every pair would give.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from safer_steer.dialogue import Script, Split

SHINGLE = 3
"""Words in a shingle."""

PRECEDENCE = {Split.TEST: 0, Split.VAL: 1, Split.TRAIN: 2, None: 3}
"""Of two near-duplicates in different splits the one that training would see is removed."""

_WORD = re.compile(r"\w+")
_WIDTH = 1 << 32  # more distinct words than any corpus has; keeps a packed shingle free of collisions

ShingleSet = frozenset[int]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Text number `item` is a near-duplicate of the kept, earlier text number `of`."""

    item: int
    of: int
    jaccard: float


class Shingler:
    """Turns texts into sets of word shingles, each packed into one integer (equal iff the words are).

    Case and punctuation do not count. A text of fewer than `SHINGLE` words is one shingle.

    >>> shingler = Shingler()
    >>> jaccard(shingler("What is in the picture?"), shingler("what is in the image"))
    0.5
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __call__(self, text: str) -> ShingleSet:
        ids = self._ids
        words = [ids.setdefault(word, len(ids) + 1) for word in _WORD.findall(text.casefold())]
        words += [0] * (SHINGLE - len(words))
        return frozenset((a * _WIDTH + b) * _WIDTH + c for a, b, c in zip(words, words[1:], words[2:], strict=False))


def jaccard(a: ShingleSet, b: ShingleSet) -> float:
    """|a ∩ b| / |a ∪ b| of two non-empty sets."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def near_duplicates(texts: Iterable[str], threshold: float) -> Iterator[Duplicate]:
    """Every text whose Jaccard with some earlier *kept* text is at least `threshold`, and which one (the first).

    Texts are taken in order: the first of a cluster stays. Raises `ValueError` unless 0 < threshold ≤ 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a near-duplicate threshold lies in (0, 1], not {threshold}")
    shingler = Shingler()
    sets = [shingler(text) for text in texts]
    frequency = Counter(shingle for shingle_set in sets for shingle in shingle_set)
    index: defaultdict[int, list[int]] = defaultdict(list)
    for item, shingle_set in enumerate(sets):
        prefix = _prefix(shingle_set, frequency, threshold)
        found = _first_match(shingle_set, prefix, index, sets, threshold)
        if found is not None:
            yield Duplicate(item, found, jaccard(shingle_set, sets[found]))
            continue
        for shingle in prefix:
            index[shingle].append(item)


def _prefix(shingle_set: ShingleSet, frequency: Counter[int], threshold: float) -> list[int]:
    """The rarest shingles, enough of them that any match shares one. One that occurs once can match nothing."""
    size = len(shingle_set)
    length = size - math.ceil(threshold * size - 1e-9) + 1
    rarest = sorted(shingle_set, key=lambda shingle: (frequency[shingle], shingle))[:length]
    return [shingle for shingle in rarest if frequency[shingle] > 1]


def _first_match(
    shingle_set: ShingleSet,
    prefix: Sequence[int],
    index: defaultdict[int, list[int]],
    sets: Sequence[ShingleSet],
    threshold: float,
) -> int | None:
    candidates = {item for shingle in prefix for item in index.get(shingle, ())}
    size = len(shingle_set)
    for item in sorted(candidates):
        other = len(sets[item])
        long_enough = min(size, other) >= threshold * max(size, other) - 1e-9
        if long_enough and jaccard(shingle_set, sets[item]) >= threshold:
            return item
    return None


@dataclass(frozen=True, slots=True)
class Overlap:
    """A script that was removed because it nearly repeats another, and how nearly."""

    script: Script
    of: Script
    jaccard: float

    @property
    def crosses_splits(self) -> bool:
        return self.script.split != self.of.split


def script_text(script: Script) -> str:
    """What is compared: everything the user says."""
    return "\n".join(turn.text for turn in script.turns)


def deduplicate(scripts: Iterable[Script], threshold: float) -> tuple[list[Script], list[Overlap]]:
    """The scripts that stay and those that go, both sorted by id; independent of the order they come in.

    Within and across splits and kinds. Test keeps its scripts before validation, validation before train.
    """
    ordered = sorted(scripts, key=lambda script: (PRECEDENCE[script.split], script.id))
    found = list(near_duplicates(map(script_text, ordered), threshold))
    gone = {duplicate.item for duplicate in found}
    kept = sorted((s for number, s in enumerate(ordered) if number not in gone), key=lambda script: script.id)
    overlaps = [Overlap(ordered[d.item], ordered[d.of], d.jaccard) for d in found]
    return kept, sorted(overlaps, key=lambda overlap: overlap.script.id)


@dataclass(frozen=True, slots=True)
class Contamination:
    """What crosses splits: seeds that stand in several, and scripts that nearly repeat one of another split."""

    seeds: tuple[str, ...]
    scripts: tuple[Overlap, ...]

    def __bool__(self) -> bool:
        return bool(self.seeds or self.scripts)


def contamination(scripts: Iterable[Script], threshold: float) -> Contamination:
    """Look for anything that would let a model train on what it is tested on."""
    materialised = list(scripts)
    splits: defaultdict[str, set[Split | None]] = defaultdict(set)
    for script in materialised:
        splits[script.seed_id].add(script.split)
    _, overlaps = deduplicate(materialised, threshold)
    return Contamination(
        seeds=tuple(sorted(seed for seed, where in splits.items() if len(where) > 1)),
        scripts=tuple(overlap for overlap in overlaps if overlap.crosses_splits),
    )
