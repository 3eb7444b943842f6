"""MSSBench: the same words are safe before one image and unsafe before another; single-turn.

`chat`: every query before both images. `embodied`: instructions to a household robot. Its authors put a prompt of
their own before each; ours is the system prompt of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.dialogue import ImageRef, SeedKind
from safer_steer.errors import DataError
from safer_steer.formats import Item, Reading, Row, Rows, find
from safer_steer.formats.sources import read_json

NEEDS = "combined.json, chat/ and embodied/"
PATTERNS = ("combined.json", "*/combined.json")


def _rows(reading: Reading, part: str) -> Rows:
    for path in find(reading.path, *PATTERNS, needs=NEEDS):
        whole = read_json(path)
        rows = whole.get(part) if isinstance(whole, dict) else None
        if not isinstance(rows, list):
            raise DataError("expected a list of rows", file=path, field=part)
        for number, item in enumerate(rows, 1):
            row = Row(item, path, row=f"{part} {number}")
            yield row if isinstance(item, dict) else row.error("not a JSON object")


def chat(reading: Reading) -> Iterator[Item]:
    """Every query before the safe and before the unsafe image."""

    def build(row: Row) -> Iterator[Item]:
        for label in ("safe", "unsafe"):
            image = reading.image(row, f"{label}_image_path", "chat")
            for number, query in enumerate(row.texts("queries")):
                yield _item(row, f"{number}-{label}", query, row.text("Type"), image, label)

    return reading.each(_rows(reading, "chat"), build, id_field="queries")


def embodied(reading: Reading) -> Iterator[Item]:
    """Every safe instruction before the safe image, every unsafe one before the other."""

    def build(row: Row) -> Iterator[Item]:
        for label in ("safe", "unsafe"):
            image = reading.image(row, label, "embodied")
            many, one = f"{label}_instructions", f"{label}_instruction"
            for number, words in enumerate(row.texts(many) if row.has(many) else [row.text(one)]):
                yield _item(row, f"{number}-{label}", words, row.text("category"), image, label)

    return reading.each(_rows(reading, "embodied"), build, id_field="task")


def _item(row: Row, name: str, words: str, category: str, image: ImageRef, label: str) -> Item:
    kind = SeedKind.BENIGN if label == "safe" else SeedKind.HARMFUL
    number = str(row.number).replace(" ", "-")
    return Item(f"mssbench-{number}-{name}", words, category, (image,), kind=kind)


def both(reading: Reading) -> Iterator[Item]:
    """The two parts, one after the other."""
    yield from chat(reading)
    yield from embodied(reading)


def suite(name: str, items: Callable[[Reading], Iterator[Item]], about: str) -> FolderSuite:
    """A suite of one part or of both."""
    return FolderSuite(about, NEEDS, PATTERNS, one_turn(name, items), single_turn=True)
