"""VLSBench: `data.json` and a folder of images; the harm is visible only in the image."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import find, json_rows

NEEDS = "data.json and the images it names, for example in imgs/"


def items(reading: Reading) -> Iterator[Item]:
    """Every instruction with its image."""

    def build(row: Row) -> Iterator[Item]:
        yield Item(
            id=f"vlsbench-{row.identity('instruction_id')}",
            question=row.text("instruction"),
            category=row.text("category"),
            images=(reading.image(row, "image_path", "imgs", "images"),),
        )

    for path in find(reading.path, "data.json", "data/data.json", needs=NEEDS):
        yield from reading.each(json_rows(path), build, id_field="instruction_id")
