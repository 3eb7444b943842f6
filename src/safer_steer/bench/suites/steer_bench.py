"""STEER-Bench: JSON Lines, one file for each of its five subsets. The format of users' own suites, too.

Assistant messages are dropped: the model under test answers. Image paths are relative to the file's folder. `kind` is
ours: the releases hold unsafe dialogues only, a suite of one's own may hold benign ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safer_steer.bench.suites.benchmark import FolderSuite, held_out, user_turns
from safer_steer.dialogue import ImageRef, Script, ScriptKind
from safer_steer.formats import Reading, Row, jsonl_rows

KEYS = ("question_id", "messages_fixed", "category", "image", "source_category", "risk_trajectory", "kind")
REQUIRED = KEYS[:3]
FORMAT = "STEER-Bench"

SUBSETS = {
    "steer-beaver": ("steer_beavertails", "BeaverTails-V over many turns"),
    "steer-mmsafe": ("steer_mmsafety", "MM-SafetyBench over many turns"),
    "steer-vls": ("steer_vlsbench", "VLSBench over many turns"),
    "steer-spa": ("steer_spa", "SPA-VL over many turns"),
    "steer-dys": ("steer_dys", "original dynamic scenarios"),
}
"""The five subsets: the stem of the file that the authors' evaluation script reads, and what it is."""


def read_steer_bench(reading: Reading, path: Path, *, subset: str | None = None) -> Iterator[Script]:
    """The dialogues of one file; those of a `subset` bear its name in their ids, so that subsets can be joined."""

    def build(row: Row) -> Iterator[Script]:
        row.require(REQUIRED)
        row.only(KEYS, FORMAT)
        identity = row.identity("question_id")
        yield held_out(
            identity if subset is None else f"{subset}-{identity}",
            category=row.identity("category"),
            images=_images(reading, row),
            turns=user_turns(row, list(_user_texts(row)), "messages_fixed"),
            kind=_kind(row),
            suite=path.stem if subset is None else subset,
        )

    yield from reading.each(jsonl_rows(path), build, id_field="question_id")


def _kind(row: Row) -> ScriptKind:
    if not row.has("kind"):
        return ScriptKind.RED_TEAM
    try:
        return ScriptKind(row.values["kind"])
    except ValueError:
        raise row.error(f"there is no kind {row.values['kind']!r}"[:120], "kind", hint=", ".join(ScriptKind)) from None


def _user_texts(row: Row) -> Iterator[str]:
    for message in row.each("messages_fixed"):
        if set(message.values) != {"role", "content"}:
            raise message.error("expected an object with role and content")
        role, content = message.values["role"], message.values["content"]
        if role not in ("user", "assistant", "system"):
            raise message.error(f"unknown role {role!r}", "role")
        if role == "user":
            text = _content(message, content)
            if not text:
                raise message.error("an empty user turn", "content")
            yield text


def _content(message: Row, content: Any) -> str:
    """The text of a message: a string, or blocks `{type: text, text}` (image blocks repeat the row's image)."""
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    if not isinstance(content, list):
        raise message.error(f"expected a string or a list of blocks, got {type(content).__name__}", "content")
    texts = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind != "image":
            raise message.error(f"unknown block {block!r}"[:120], "content")
    return "\n".join(texts).replace("<image>", "").strip()


def _images(reading: Reading, row: Row) -> tuple[ImageRef, ...]:
    value = row.values.get("image")
    if value is None:
        return ()
    names = value if isinstance(value, list) else [value]
    return tuple(reading.images.file(row, name, "image", bases=reading.bases(row)) for name in names)


def subset_suite(name: str) -> FolderSuite:
    """The suite of one subset."""
    stem, about = SUBSETS[name]

    def read(reading: Reading) -> Iterator[Script]:
        for path in suite.files(reading.path):
            yield from read_steer_bench(reading, path, subset=name)

    needs = f"{stem}.jsonl (or {name}.jsonl) and its images"
    suite = FolderSuite(about, needs, (f"{stem}.jsonl", f"{name}.jsonl", f"*/{stem}.jsonl"), read)
    return suite


class WholeSteerBench:
    """All five subsets, from one folder; or what stands in one file, which is that subset if its name says so."""

    about = "STEER-Bench: the five subsets together"
    needs = ", ".join(f"{stem}.jsonl" for stem, _ in SUBSETS.values()) + " and their images"
    single_turn = False

    def files(self, path: Path) -> list[Path]:
        return [path] if path.is_file() else [file for name in SUBSETS for file in subset_suite(name).files(path)]

    def scripts(self, reading: Reading) -> Iterator[Script]:
        if reading.path.is_file():
            named = (name for name, (stem, _) in SUBSETS.items() if reading.path.stem in (stem, name))
            yield from read_steer_bench(reading, reading.path, subset=next(named, None))
            return
        for name in SUBSETS:
            yield from subset_suite(name).scripts(reading)
