"""BeaverTails-V: one folder per harm category with `train.parquet` and `evaluation.parquet`.

A question stands there once for each answer; the answers are not read, and repeats of question and image are passed
over. Ids name the content.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.dialogue import Split, stable_id
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import parquet_rows, split_files

NEEDS = "the release's data/CATEGORY/{train,evaluation}*.parquet"
GLOBS = {Split.TRAIN: ("**/train*.parquet",), Split.TEST: ("**/evaluation*.parquet", "**/test*.parquet")}
COLUMNS = ("question", "image", "category")


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """The questions of one split or of all, in the order of the files."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own) -> Iterator[Item]:
            question, image = row.text("question"), reading.cell(row, "image")
            name = f"beavertails-v-{stable_id(question, image.sha256)}"
            yield Item(name, question, row.text("category"), (image,), split=own)

        yield from reading.each(parquet_rows(path, COLUMNS), build, id_field=None)
