"""SPA-VL: parquet; the test split's `harm` file is the benchmark. Of the pairs of answers nothing is read."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.dialogue import Split, stable_id
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import parquet_rows, split_files

NEEDS = "the release's train*.parquet, validation*.parquet or test/harm*.parquet"
GLOBS = {Split.TRAIN: ("**/train*.parquet",), Split.VAL: ("**/val*.parquet",), Split.TEST: ("**/harm*.parquet",)}
COLUMNS = ("question", "image")


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """The questions of one split or of all. The category is the first of `class1` to `class3` that is filled."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own) -> Iterator[Item]:
            question, image = row.text("question"), reading.cell(row, "image")
            classes = [row.optional_text(key) for key in ("class1", "class2", "class3")]
            category = next((name for name in classes if name is not None), "unclassified")
            yield Item(f"spa-vl-{stable_id(question, image.sha256)}", question, category, (image,), split=own)

        rows = parquet_rows(path, COLUMNS, ("class1", "class2", "class3"))
        yield from reading.each(rows, build, id_field=None)
