"""SIUO: image and words are each safe, and unsafe together; single-turn. Of its two tracks, free generation is read."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.formats import Item, Reading, Row, find, json_rows

NEEDS = "siuo_gen.json and images/"
PATTERNS = ("siuo_gen.json", "data/siuo_gen.json")


def items(reading: Reading) -> Iterator[Item]:
    """Every question with its image."""

    def build(row: Row) -> Iterator[Item]:
        image = reading.image(row, "image", "images", "../images")
        yield Item(f"siuo-{row.identity('question_id')}", row.text("question"), row.text("category"), (image,))

    for path in find(reading.path, *PATTERNS, needs=NEEDS):
        yield from reading.each(json_rows(path), build, id_field="question_id")


SUITE = FolderSuite("safe inputs, unsafe output", NEEDS, PATTERNS, one_turn("siuo", items), single_turn=True)
