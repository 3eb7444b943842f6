"""Geometry3K as parquet: geometry problems with their figures and answers; benign."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.dialogue import SeedKind, Split, stable_id
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import parquet_rows, split_files

NEEDS = "the parquet release's data/{train,validation,test}*.parquet"
GLOBS = {
    Split.TRAIN: ("**/train*.parquet",),
    Split.VAL: ("**/val*.parquet",),
    Split.TEST: ("**/test*.parquet",),
}
COLUMNS = ("images", "problem", "answer")


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """The problems of one split or of all; the marker `<image>` is taken out of their text."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own) -> Iterator[Item]:
            images = reading.cells(row, "images")
            problem = row.text("problem").replace("<image>", "").strip()
            if not problem:
                raise row.error("holds nothing but the image marker", "problem")
            yield Item(
                id=f"geometry3k-{stable_id(problem, *(image.sha256 for image in images))}",
                question=problem,
                category="geometry",
                images=images,
                kind=SeedKind.BENIGN,
                split=own,
                reference=row.text("answer"),
            )

        yield from reading.each(parquet_rows(path, COLUMNS), build, id_field=None)
