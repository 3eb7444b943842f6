"""SafeMT: JSON arrays of 1, 2 and 4 turns over one image.

Its scripted assistant turns are dropped; its authors show them to the model and have only the last turn answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, held_out, said_by_user, user_turns
from safer_steer.dialogue import ImageRef, Script
from safer_steer.formats import Reading, Row, find, json_rows

NEEDS = "Data/{1,2,4}_turn.json and the images they name"
PATTERNS = ("*_turn.json", "Data/*_turn.json")


def read(reading: Reading) -> Iterator[Script]:
    """The dialogues of all files; ids begin with the file's name, as the files may use the same."""

    def build(row: Row) -> Iterator[Script]:
        yield held_out(
            f"safemt-{row.file.stem}-{row.identity('id')}",
            category=row.text("scenario"),
            images=(_image(reading, row),),
            turns=user_turns(row, said_by_user(row.each("dialogue")), "dialogue"),
            question=row.optional_text("question"),
            suite="safemt",
        )

    for path in find(reading.path, *PATTERNS, needs=NEEDS):
        yield from reading.each(json_rows(path), build, id_field="id")


def _image(reading: Reading, row: Row) -> ImageRef:
    """Paths are relative to the folder of the data, some with a slash before them, as the authors' loader allows."""
    name = row.text("image_path").lstrip("/")
    return reading.images.file(row, name, "image_path", bases=reading.bases(row, "images", ".."))


SUITE = FolderSuite("unsafe requests led up to over 1, 2 or 4 turns, one image", NEEDS, PATTERNS, read)
