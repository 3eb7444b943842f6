"""JailBreakV-28K: a CSV beside folders of images. `jailbreak_query` is what is said, `redteam_query` what is meant."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.dialogue import stable_id
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import csv_rows, find

FULL, MINI = "JailBreakV_28K.csv", "mini_JailBreakV_28K.csv"
NEEDS = "JailBreakV_28K.csv or mini_JailBreakV_28K.csv and the folders of images it names"
COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path", "transfer_from_llm")


def items(reading: Reading, name: str = FULL) -> Iterator[Item]:
    """Every attack with its image; its `format` is its strategy."""

    def build(row: Row) -> Iterator[Item]:
        yield Item(
            id=f"jailbreakv-{row.identity('id')}",
            question=row.text("jailbreak_query"),
            category=row.text("policy"),
            images=(reading.image(row, "image_path"),),
            goal=row.text("redteam_query"),
            strategy=row.text("format"),
        )

    for path in find(reading.path, name, f"*/{name}", needs=NEEDS):
        yield from reading.each(csv_rows(path, COLUMNS), build, id_field="id")


def seeds(reading: Reading) -> Iterator[Item]:
    """Every plain request once, with the first image that shows it.

    The images of attacks that were carried over from text (`transfer_from_llm`) show something else or nothing: those
    rows are left out.
    """

    def build(row: Row) -> Iterator[Item]:
        if row.truth("transfer_from_llm"):
            return
        question = row.text("redteam_query")
        image = reading.image(row, "image_path")
        yield Item(f"jailbreakv-{stable_id(question)}", question, row.text("policy"), (image,))

    for path in find(reading.path, FULL, f"*/{FULL}", MINI, f"*/{MINI}", needs=NEEDS):
        yield from reading.each(csv_rows(path, COLUMNS), build, id_field=None)
