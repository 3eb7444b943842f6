"""SafeDialBench: text only, 3 to 10 turns, in English and in Chinese.

The scripted `bot` turns are dropped; its authors show them to the model in place of its own earlier answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, held_out, user_turns
from safer_steer.dialogue import Script
from safer_steer.formats import Reading, Row, find, jsonl_rows


def suite(language: str, name: str) -> FolderSuite:
    """The suite of one language, `en` or `zh`."""
    needs = f"datasets_{language}.jsonl"
    patterns = (needs, f"*/{needs}")

    def read(reading: Reading) -> Iterator[Script]:
        def build(row: Row) -> Iterator[Script]:
            task = row.text("task")
            yield held_out(
                f"{name}-{task}-{row.identity('id')}",
                category=task,
                strategy=row.text("method"),
                turns=user_turns(row, [turn.text("user") for turn in row.each("history")], "history"),
                suite=name,
            )

        for path in find(reading.path, *patterns, needs=needs):
            yield from reading.each(jsonl_rows(path), build, id_field="id")

    spoken = {"en": "English", "zh": "Chinese"}[language]
    return FolderSuite(f"jailbreaks over 3 to 10 turns, text only, {spoken}", needs, patterns, read)
