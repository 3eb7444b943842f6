"""Whether a run's training data repeats a benchmark: by words and by image, against any suite."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safer_steer.bench.suites import load_suite
from safer_steer.construct.dedup import Contamination, Item, Looks, contamination, item_of
from safer_steer.construct.shingles import Shingler
from safer_steer.dialogue import Script, Split
from safer_steer.exports.samples import Part, present, read
from safer_steer.image_store import ImageStore
from safer_steer.run_folder import RunFolder

JACCARD, IMAGE_BITS = 0.8, 4
"""The defaults of `construction.near_duplicate_jaccard` and `construction.image_distance`."""


def against(
    run: RunFolder, suite: str, *, threshold: float = JACCARD, image_bits: int | None = IMAGE_BITS
) -> Contamination:
    """What of a run's SFT and RL data stands in `suite` too (a built-in one, or a file or folder).

    Raises `StorageError`, `ConfigError`, `DataError` and `ImageError`.
    """
    looks = None if image_bits is None else Looks(run.images, image_bits)
    shingler = Shingler()
    home: dict[str, str] = {}
    items: list[Item] = []

    def add(script: Script, name: str, split: Split, images: ImageStore) -> None:
        unique = f"{name}/{script.id}"
        home[unique] = name
        if looks is not None:
            for ref in script.images_until(len(script.turns)):
                looks.see(ref, images)
        named = {"id": unique, "split": split, "seed_id": f"{name}/{script.seed_id}"}
        items.append(item_of(script.model_copy(update=named), shingler))

    for part in present(run):
        if part in (Part.SFT, Part.RL):
            for sample in read(run, part):
                add(sample.script, str(part), Split.TRAIN, run.images)
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(Path(folder))
        for script in load_suite(suite, store):
            add(script, suite, Split.TEST, store)
    return contamination(items, threshold, looks, image_bits=image_bits, name=lambda item: home[item.id])
