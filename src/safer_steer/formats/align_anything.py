"""align-anything, text and image to text: everyday questions on images with two answers, one preferred; benign."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.dialogue import SeedKind, Split, stable_id
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import parquet_rows, split_files

NEEDS = "text-image-to-text's train*.parquet or val*.parquet"
GLOBS = {Split.TRAIN: ("**/train*.parquet",), Split.VAL: ("**/val*.parquet",)}
COLUMNS = ("question", "image", "response_1", "response_2", "overall_response")


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """The questions of one split or of both; the preferred answer is the reference."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own) -> Iterator[Item]:
            question, image = row.text("question"), reading.cell(row, "image")
            yield Item(
                id=f"align-anything-{stable_id(question, image.sha256)}",
                question=question,
                category="general",
                images=(image,),
                kind=SeedKind.BENIGN,
                split=own,
                reference=_preferred(row),
            )

        yield from reading.each(parquet_rows(path, COLUMNS), build, id_field=None)


def _preferred(row: Row) -> str | None:
    """The answer that was preferred; `None` where neither was (values but 1 and 2)."""
    preferred = row.integer("overall_response")
    return row.text(f"response_{preferred}") if preferred in (1, 2) else None
