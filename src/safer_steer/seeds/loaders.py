"""A loader for each released dataset, by name: what `construction.seeds` may ask for.

A loader turns a `Reading` of a local file or folder into seeds. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safer_steer.config import SeedSource
from safer_steer.dialogue import Seed, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.formats import (
    Item,
    Reading,
    Skips,
    align_anything,
    beavertails_v,
    geometry3k,
    jailbreakv,
    mm_safetybench,
    scienceqa,
    spa_vl,
    vlguard,
    vlsbench,
)
from safer_steer.image_store import ImageStore
from safer_steer.seeds.builtin import load_builtin
from safer_steer.seeds.images import materialise_images
from safer_steer.seeds.plain import jsonl_seeds, parquet_seeds

Read = Callable[[Reading, Split | None], Iterator[Seed]]


@dataclass(frozen=True, slots=True)
class Loader:
    """How one dataset becomes seeds; `needs` is what must lie at the path, `None` if there is none to give."""

    read: Read
    needs: str | None


def _split_of_its_own(items: Callable[[Reading, Split | None], Iterator[Item]], source: str, licence: str) -> Read:
    """For datasets with splits: the one asked for is read, and every seed belongs to the split it comes from."""

    def read(reading: Reading, split: Split | None) -> Iterator[Seed]:
        return (item.seed(source=source, licence=licence, split=split) for item in items(reading, split))

    return read


def _unsplit(items: Callable[[Reading], Iterator[Item]], source: str, licence: str) -> Read:
    """For datasets without: all is read, and belongs to the split asked for."""

    def read(reading: Reading, split: Split | None) -> Iterator[Seed]:
        return (item.seed(source=source, licence=licence, split=split) for item in items(reading))

    return read


def _rows_with_splits(read_all: Callable[[Reading], Iterator[Seed]]) -> Read:
    """For files whose rows name their split: those of the one asked for, and those that name none."""

    def read(reading: Reading, split: Split | None) -> Iterator[Seed]:
        for seed in read_all(reading):
            if split is None or seed.split is split:
                yield seed
            elif seed.split is None:
                yield seed.model_copy(update={"split": split})

    return read


def _builtin(reading: Reading, split: Split | None) -> Iterator[Seed]:
    materialise_images(reading.store)
    return iter(load_builtin(split))


UNKNOWN = "see the release"

LOADERS: Mapping[str, Loader] = {
    "builtin": Loader(_builtin, None),
    "jsonl": Loader(_rows_with_splits(jsonl_seeds), "a JSON Lines file, images beside it"),
    "parquet": Loader(_rows_with_splits(parquet_seeds), "a parquet file with question, category and image"),
    "jailbreakv_28k": Loader(_unsplit(jailbreakv.seeds, "JailBreakV-28K", UNKNOWN), jailbreakv.NEEDS),
    "spa_vl": Loader(_split_of_its_own(spa_vl.items, "SPA-VL", "CC-BY-4.0"), spa_vl.NEEDS),
    "beavertails_v": Loader(
        _split_of_its_own(beavertails_v.items, "BeaverTails-V", "CC-BY-NC-4.0"), beavertails_v.NEEDS
    ),
    "geometry3k": Loader(_split_of_its_own(geometry3k.items, "Geometry3K", "MIT"), geometry3k.NEEDS),
    "align_anything": Loader(
        _split_of_its_own(align_anything.items, "align-anything", "CC-BY-NC-4.0"), align_anything.NEEDS
    ),
    "scienceqa": Loader(_split_of_its_own(scienceqa.items, "ScienceQA", "CC-BY-SA-4.0"), scienceqa.NEEDS),
    "vlsbench": Loader(_unsplit(vlsbench.items, "VLSBench", UNKNOWN), vlsbench.NEEDS),
    "mm_safetybench": Loader(_unsplit(mm_safetybench.seeds, "MM-SafetyBench", UNKNOWN), mm_safetybench.NEEDS),
    "vlguard": Loader(_split_of_its_own(vlguard.items, "VLGuard", UNKNOWN), vlguard.NEEDS),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The seeds of a recipe, their images in the store, and the rows that were skipped."""

    seeds: tuple[Seed, ...]
    skips: Skips


def load_seeds(sources: Sequence[SeedSource], images: ImageStore, *, skip_bad_rows: bool = False) -> Loaded:
    """Read every source in order. Raises `ConfigError` (no such loader, no path) and `DataError` (what it found)."""
    seeds: list[Seed] = []
    taken: dict[str, str] = {}
    skips = Skips()
    for source in sources:
        reading = Reading(_path(source), images, skip_bad_rows=skip_bad_rows)
        found = list(islice(LOADERS[source.loader].read(reading, source.split), source.limit))
        skips += reading.skips
        if not found:
            raise DataError(f"'{source.loader}' found no seed to use", file=source.path, hint=_none_left(reading.skips))
        for seed in found:
            if seed.id in taken:
                where = f"{taken[seed.id]} and {source}"
                raise DataError(f"the id '{seed.id}' stands in {where}", file=source.path, field="id")
        taken.update((seed.id, str(source)) for seed in found)
        seeds += found
    return Loaded(tuple(seeds), skips)


def _path(source: SeedSource) -> Path:
    loader = LOADERS.get(source.loader)
    where = "construction.seeds"
    if loader is None:
        hint = f"choose from {', '.join(LOADERS)}; or give a .jsonl or .parquet file"
        raise ConfigError(f"there is no seed loader or file '{source.loader}'", where=where, hint=hint)
    if loader.needs is None:
        return Path()
    if source.path is None:
        raise ConfigError(f"the loader '{source.loader}' needs a path", where=where, hint=f"to {loader.needs}")
    return Path(source.path)


def _none_left(skips: Skips) -> str | None:
    return f"{skips.rows} bad rows were skipped, first {skips.first[0]}" if skips.rows else None
