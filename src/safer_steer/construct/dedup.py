"""Near-duplicate scripts, within and across splits, and what would let a model train on what it is tested on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from safer_steer.construct.looks import alike, distance, perceptual_hash
from safer_steer.construct.shingles import Shingler, Shingles, near_duplicate_sets
from safer_steer.dialogue import ImageRef, Record, Script, Split
from safer_steer.image_store import ImageStore

PRECEDENCE = {Split.TEST: 0, Split.VAL: 1, Split.TRAIN: 2, None: 3}
"""Of two near-duplicates in different splits the one that training would see is removed."""


@dataclass(frozen=True, slots=True)
class Item:
    """What de-duplication needs to know of a script: its words as shingles, its images' names and where it stands.

    `at` is the caller's: assembling keeps there where the script lies on disk, so that no text stays in memory.
    """

    id: str
    split: Split | None
    seed_id: str
    shingles: Shingles = field(repr=False, compare=False)
    images: tuple[str, ...] = ()
    at: int = 0

    @property
    def order(self) -> tuple[int, str]:
        return PRECEDENCE[self.split], self.id


@dataclass(frozen=True, slots=True)
class Repeat:
    """An item that was removed, and the kept one it repeats: by its words (`jaccard`) or its image (`bits` apart)."""

    item: Item
    of: Item
    jaccard: float | None = None
    bits: int | None = None

    @property
    def crosses_splits(self) -> bool:
        return self.item.split != self.of.split

    def __str__(self) -> str:
        how = f"Jaccard {self.jaccard:.3f}" if self.jaccard is not None else f"an image {self.bits} of 64 bits from one"
        return f"{how} {'with' if self.jaccard is not None else 'of'} {self.of.id} ({self.of.split})"


def script_text(script: Script) -> str:
    """What is compared: everything the user says."""
    return "\n".join(turn.text for turn in script.turns)


def item_of(script: Script, shingler: Shingler, at: int = 0) -> Item:
    """A script as an `Item`; all items that are compared must come from one `Shingler`."""
    images = tuple(ref.sha256 for ref in script.images_until(len(script.turns)))
    return Item(script.id, script.split, script.seed_id, shingler(script_text(script)), images, at)


def repeats(items: Iterable[Item], threshold: float, looks: Looks | None = None) -> list[Repeat]:
    """The items to remove, sorted by id; independent of the order they come in.

    By words within and across splits and kinds; by image, where there are `looks`, across splits only: within one
    many dialogues share an image by intention. Test keeps its scripts before validation, validation before train.
    """
    ordered = sorted(items, key=lambda item: item.order)
    found = [] if looks is None else looks.across(ordered)
    gone = {repeat.item.id for repeat in found}
    stays = [item for item in ordered if item.id not in gone]
    found += _by_words(stays, threshold)
    return sorted(found, key=lambda repeat: repeat.item.id)


def _crossing(items: Iterable[Item], threshold: float, looks: Looks | None) -> list[Repeat]:
    """The items that repeat one of an earlier split, sorted by id; whatever else they or that one repeat."""
    ordered = sorted(items, key=lambda item: item.order)
    found = {} if looks is None else {repeat.item.id: repeat for repeat in looks.across(ordered, kept_only=False)}
    for repeat in _by_words(ordered, threshold, [item.order[0] for item in ordered]):
        found.setdefault(repeat.item.id, repeat)
    return [found[id] for id in sorted(found)]


def _by_words(items: Sequence[Item], threshold: float, groups: Sequence[int] | None = None) -> Iterator[Repeat]:
    """`near_duplicate_sets` of the items."""
    for duplicate in near_duplicate_sets([item.shingles for item in items], threshold, groups):
        yield Repeat(items[duplicate.item], items[duplicate.of], jaccard=duplicate.jaccard)


class Looks:
    """The perceptual hashes of a run's images, each computed once; `most` bits apart is still the same image."""

    def __init__(self, images: ImageStore, most: int) -> None:
        self._images, self._most = images, most
        self._hashes: dict[str, int | None] = {}

    def see(self, ref: ImageRef, images: ImageStore | None = None) -> None:
        """Hash an image, which lies in the run's store if no other is named; raises `ImageError`."""
        if ref.sha256 not in self._hashes:
            self._hashes[ref.sha256] = perceptual_hash((self._images if images is None else images).open(ref))

    def across(self, ordered: Sequence[Item], *, kept_only: bool = True) -> list[Repeat]:
        """The items with an image like one of an item of an earlier split. `ordered` by `Item.order`.

        With `kept_only` an earlier item that is itself one of these no longer counts: it is going to be removed.
        """
        found: list[Repeat] = []
        by_split: defaultdict[int, list[Item]] = defaultdict(list)
        for item in ordered:
            by_split[item.order[0]].append(item)
        earlier: list[Item] = []
        for number in sorted(by_split):
            repeated = self._like(by_split[number], earlier)
            found += repeated
            gone = {repeat.item.id for repeat in repeated} if kept_only else set()
            earlier += [item for item in by_split[number] if item.id not in gone]
        return found

    def _like(self, items: Sequence[Item], earlier: Sequence[Item]) -> list[Repeat]:
        """For each item the first of `earlier` that shows one of its images."""
        owner: dict[str, int] = {}
        for number, item in enumerate(earlier):
            for name in item.images:
                owner.setdefault(name, number)
        new = sorted({name for item in items for name in item.images})
        match = {name: (owner[name], 0) for name in new if name in owner}
        hashed = [name for name in new if name not in match and self._hash(name) is not None]
        old = [name for name in sorted(owner, key=lambda name: owner[name]) if self._hash(name) is not None]
        pairs = alike([self._known(name) for name in hashed], [self._known(name) for name in old], self._most)
        for i, j in pairs:
            bits = distance(self._known(hashed[i]), self._known(old[j]))
            match.setdefault(hashed[i], (owner[old[j]], bits))
        found = []
        for item in items:
            hit = next((match[name] for name in item.images if name in match), None)
            if hit is not None:
                found.append(Repeat(item, earlier[hit[0]], bits=hit[1]))
        return found

    def _hash(self, name: str) -> int | None:
        return self._hashes.get(name)

    def _known(self, name: str) -> int:
        known = self._hashes[name]
        assert known is not None
        return known


class Overlap(Record):
    """One finding of a contamination report: a dialogue of one split that repeats one of another, and how nearly."""

    id: str
    split: str
    of: str
    of_split: str
    jaccard: float | None = None
    image_bits: int | None = None


class Contamination(Record):
    """What crosses splits: seeds that stand in several, and dialogues that repeat one of another split."""

    dialogues: dict[str, int]
    seeds: tuple[str, ...]
    overlaps: tuple[Overlap, ...]
    jaccard: float
    image_bits: int | None

    def __bool__(self) -> bool:
        return bool(self.seeds or self.overlaps)


def contamination(
    items: Iterable[Item],
    threshold: float,
    looks: Looks | None = None,
    *,
    image_bits: int | None = None,
    name: Callable[[Item], str] = lambda item: str(item.split),
) -> Contamination:
    """Look for anything that would let a model train on what it is tested on."""
    materialised = list(items)
    splits: defaultdict[str, set[str]] = defaultdict(set)
    sizes: defaultdict[str, int] = defaultdict(int)
    for item in materialised:
        splits[item.seed_id].add(name(item))
        sizes[name(item)] += 1
    crossing = _crossing(materialised, threshold, looks)
    return Contamination(
        dialogues=dict(sorted(sizes.items())),
        seeds=tuple(sorted(seed for seed, where in splits.items() if len(where) > 1)),
        overlaps=tuple(
            Overlap(
                id=repeat.item.id,
                split=name(repeat.item),
                of=repeat.of.id,
                of_split=name(repeat.of),
                jaccard=repeat.jaccard,
                image_bits=repeat.bits,
            )
            for repeat in crossing
        ),
        jaccard=threshold,
        image_bits=image_bits,
    )
