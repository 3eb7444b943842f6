"""VLGuard: `train.json` and `test.json` with their folders of images.

A row with a safe image has two instructions, one harmless and one not; one with an unsafe image has one, unsafe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safer_steer.dialogue import SeedKind, Split
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import json_rows, split_files

NEEDS = "test.json and test/ (for seeds also train.json and train/)"
GLOBS = {Split.TRAIN: ("train.json", "data/train.json"), Split.TEST: ("test.json", "data/test.json")}
SAFE_IMAGE = "safe_image"
"""The category of unsafe instructions on safe images, for which the dataset names none."""


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """All instructions of one split or of both."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own, folder: str = path.stem) -> Iterator[Item]:
            yield from _items(reading, row, own, folder)

        yield from reading.each(json_rows(path), build, id_field="id")


def _items(reading: Reading, row: Row, split: Split | None, folder: str) -> Iterator[Item]:
    image = reading.image(row, "image", folder, f"VLGuard/{folder}")
    source = Path(row.text("image")).parent.name  # the images come from several datasets, each with ids of its own
    found = {key: inner for inner in row.each("instr-resp") for key in inner.values if key.endswith("instruction")}
    wanted = ("safe_instruction", "unsafe_instruction") if row.truth("safe") else ("instruction",)
    for key in wanted:
        if key not in found:
            raise row.error(f"has no {key}", "instr-resp")
        benign = key == "safe_instruction"
        category = row.optional_text("harmful_category")
        yield Item(
            id=f"vlguard-{folder}-{source}-{row.identity('id')}-{'safe' if benign else 'unsafe'}",
            question=found[key].text(key),
            category="benign" if benign else SAFE_IMAGE if category is None else category,
            images=(image,),
            kind=SeedKind.BENIGN if benign else SeedKind.HARMFUL,
            split=split,
            reference=found[key].optional_text("response") if benign else None,
        )
