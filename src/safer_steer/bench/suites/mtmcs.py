"""MTMCS-Bench: three user turns over one image; in type A the risk comes with the last, in type B with the first.

Every row gives an unsafe dialogue and its safe twin. Its multiple-choice and true-false questions are not used, and
its variant images neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from safer_steer.bench.suites.benchmark import FolderSuite, held_out, user_turns
from safer_steer.dialogue import Script, ScriptKind
from safer_steer.formats import Reading, Row, find, parquet_rows

NEEDS = "type_a*.parquet and type_b*.parquet"
PATTERNS = ("type_[ab]*.parquet", "**/type_[ab]*.parquet")


def reader(modality: str) -> Callable[[Reading], Iterator[Script]]:
    """Reads the `multimodal` dialogues with their image, or the `unimodal` ones, which have none."""
    suite = "mtmcs-bench" if modality == "multimodal" else "mtmcs-bench-text"
    column = f"{modality}_dialogue"

    def read(reading: Reading) -> Iterator[Script]:
        for path in find(reading.path, *PATTERNS, needs=NEEDS):
            kind = _type(path)

            def build(row: Row, kind: str = kind) -> Iterator[Script]:
                images = (reading.cell(row, "image"),) if modality == "multimodal" else ()
                for intent in ("unsafe", "safe"):
                    yield held_out(
                        f"{suite}-{kind}-{row.identity('id')}-{intent}",
                        kind=ScriptKind.RED_TEAM if intent == "unsafe" else ScriptKind.BENIGN,
                        category=kind,
                        images=images,
                        turns=user_turns(row, _turns(row.inner(column), kind, intent), column),
                        question=row.text("unsafe_intent") if intent == "unsafe" else None,
                        suite=suite,
                    )

            columns = ("id", "image", "unsafe_intent", column)
            yield from reading.each(parquet_rows(path, columns), build, id_field="id")

    return read


def _type(path: Path) -> str:
    return path.name[: len("type_a")]


def _turns(dialogue: Row, kind: str, intent: str) -> list[str]:
    """`r1, r2, r3`, of which the one that tells the intents apart is replaced by its safe or unsafe version."""
    told = "r3" if kind == "type_a" else "r1"
    keys = [f"{intent}_{key}" if key == told and dialogue.has(f"{intent}_{key}") else key for key in ("r1", "r2", "r3")]
    return [dialogue.text(key) for key in keys]


SUITE = FolderSuite("safe and unsafe intents in three turns, one image", NEEDS, PATTERNS, reader("multimodal"))
TEXT = FolderSuite("the same intents said without the image", NEEDS, PATTERNS, reader("unimodal"))
