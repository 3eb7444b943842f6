"""CoSafe: text only; each line of its `.json` files (one for each category) is a list of messages.

Its scripted assistant turns are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, held_out, said_by_user, user_turns
from safer_steer.dialogue import Script
from safer_steer.formats import Reading, Row, find, jsonl_rows

NEEDS = "CATEGORY.json files"
PATTERNS = ("CoSafe datasets/*.json", "*.json")


def read(reading: Reading) -> Iterator[Script]:
    """The dialogues of all files; a file's name is the category, and with the line the id."""

    def build(row: Row) -> Iterator[Script]:
        yield held_out(
            f"cosafe-{row.file.stem}-{row.number}",
            category=row.file.stem,
            turns=user_turns(row, said_by_user(row.each("messages")), "messages"),
            suite="cosafe",
        )

    for path in find(reading.path, *PATTERNS, needs=NEEDS):
        yield from reading.each(jsonl_rows(path, lists=True), build, id_field="messages")


SUITE = FolderSuite("coreference attacks over three turns, text only", NEEDS, PATTERNS, read)
