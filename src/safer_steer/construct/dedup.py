"""Near-duplicate scripts, within and across splits, and what would let a model train on what it is tested on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from safer_steer.construct.shingles import near_duplicates
from safer_steer.dialogue import Script, Split

PRECEDENCE = {Split.TEST: 0, Split.VAL: 1, Split.TRAIN: 2, None: 3}
"""Of two near-duplicates in different splits the one that training would see is removed."""


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
