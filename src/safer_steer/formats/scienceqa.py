"""ScienceQA as parquet: multiple-choice science questions, of which those with an image are taken; benign."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase

from safer_steer.dialogue import SeedKind, Split, stable_id
from safer_steer.formats.geometry3k import GLOBS
from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import parquet_rows, split_files

NEEDS = "the parquet release's data/{train,validation,test}*.parquet"
COLUMNS = ("image", "question", "choices", "answer", "hint", "subject")


def items(reading: Reading, split: Split | None = None) -> Iterator[Item]:
    """The questions with an image, the hint before them and the lettered choices after; the subject is the category."""
    for path, own in split_files(reading.path, GLOBS, split, NEEDS):

        def build(row: Row, own: Split | None = own) -> Iterator[Item]:
            if row.has("image"):
                yield _item(reading, row, own)

        yield from reading.each(parquet_rows(path, COLUMNS), build, id_field=None)


def _item(reading: Reading, row: Row, split: Split | None) -> Item:
    image, choices, answer = reading.cell(row, "image"), row.texts("choices"), row.integer("answer")
    if not 0 <= answer < len(choices) <= len(ascii_uppercase):
        raise row.error(f"{answer} is none of the {len(choices)} choices", "answer")
    lettered = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    hint = row.optional_text("hint")
    question = "\n".join([*([] if hint is None else [hint]), row.text("question"), *lettered])
    return Item(
        id=f"scienceqa-{stable_id(question, image.sha256)}",
        question=question,
        category=row.text("subject"),
        images=(image,),
        kind=SeedKind.BENIGN,
        split=split,
        reference=lettered[answer],
    )
