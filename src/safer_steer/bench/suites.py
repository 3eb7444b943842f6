"""Suites: where scripts to evaluate come from. Here STEER-Bench's JSONL format and the built-in `steer-mini`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safer_steer.construct.suite import build_steer_mini
from safer_steer.dialogue import MAX_TURNS, ImageRef, Script, ScriptKind, Split, UserTurn
from safer_steer.errors import ConfigError, DataError, ImageError
from safer_steer.store import ImageStore

_KEYS = {"question_id", "image", "messages_fixed", "category", "source_category", "risk_trajectory"}
_REQUIRED = ("question_id", "messages_fixed", "category")

BUILTIN: dict[str, Callable[[ImageStore], Sequence[Script]]] = {
    "steer-mini": lambda images: build_steer_mini(images),
    "steer-mini-val": lambda images: build_steer_mini(images, split=Split.VAL),
}
"""Suites that need nothing on disk. `steer-mini` is held out; `steer-mini-val` is for tuning."""


def load_suite(name: str, images: ImageStore, limit: int | None = None) -> tuple[Script, ...]:
    """The scripts of a built-in suite or of a STEER-Bench JSONL file; raises `ConfigError` or `DataError`."""
    if name in BUILTIN:
        scripts = tuple(BUILTIN[name](images))
    elif Path(name).suffix in (".jsonl", ".json") or Path(name).exists():
        scripts = tuple(read_steer_bench(Path(name), images))
    else:
        hint = f"built in: {', '.join(BUILTIN)}; or give a STEER-Bench JSONL file"
        raise ConfigError(f"there is no suite or file '{name}'", where="--suite", hint=hint)
    return scripts if limit is None else scripts[:limit]


def suite_print(name: str) -> str:
    """What a suite is called in fingerprints: a built-in one's name, a file's contents. Raises `DataError`."""
    return name if name in BUILTIN else hashlib.sha256(_bytes(Path(name))).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, hint="check --suite") from error


def read_steer_bench(path: Path, images: ImageStore) -> Iterator[Script]:
    """Read a STEER-Bench file, checking every line before anything is asked of a model.

    Assistant messages of the file are dropped: the model under test answers. Image paths are relative to the
    file's folder and may not leave it. Raises `DataError` naming file, line and field.
    """
    scripts: dict[str, Script] = {}
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        script = _script(_Row(path, number, line), images)
        if script.id in scripts:
            raise DataError(f"'{script.id}' stands twice in this file", file=path, line=number, field="question_id")
        scripts[script.id] = script
    if not scripts:
        raise DataError("the file holds no dialogue", file=path)
    yield from scripts.values()


class _Row:
    """One line of the file, with errors that name it."""

    def __init__(self, path: Path, number: int, line: bytes) -> None:
        self.path, self.number = path, number
        try:
            self.values = json.loads(line)
            json.dumps(self.values, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise self.error(f"not JSON: {error}") from error
        if not isinstance(self.values, dict):
            raise self.error("not a JSON object")
        for key in _REQUIRED:
            if key not in self.values:
                raise self.error("is missing", key)
        if unknown := sorted(set(self.values) - _KEYS):
            raise self.error("is not a STEER-Bench field", unknown[0])

    def error(self, what: str, field: str | None = None) -> DataError:
        return DataError(what, file=self.path, line=self.number, field=field)

    def text(self, key: str) -> str:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(f"expected a non-empty string, got {value!r}", key)
        return str(value)


def _script(row: _Row, images: ImageStore) -> Script:
    identity = row.text("question_id")
    turns = tuple(UserTurn(text=text) for text in _user_texts(row))
    if not 1 <= len(turns) <= MAX_TURNS:
        raise row.error(f"{len(turns)} user turns; 1 to {MAX_TURNS} are supported", "messages_fixed")
    return Script(
        id=identity,
        seed_id=identity,
        kind=ScriptKind.RED_TEAM,
        category=row.text("category"),
        images=_images(row, images),
        turns=turns,
        split=Split.TEST,
        suite=row.path.stem,
    )


def _user_texts(row: _Row) -> Iterator[str]:
    messages = row.values["messages_fixed"]
    if not isinstance(messages, list):
        raise row.error("expected a list of messages", "messages_fixed")
    for index, message in enumerate(messages):
        field = f"messages_fixed[{index}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise row.error("expected an object with role and content", field)
        if message["role"] not in ("user", "assistant", "system"):
            raise row.error(f"unknown role {message['role']!r}", f"{field}.role")
        if message["role"] == "user":
            text = _content(row, message["content"], f"{field}.content")
            if not text.strip():
                raise row.error("an empty user turn", f"{field}.content")
            yield text


def _content(row: _Row, content: Any, field: str) -> str:
    """The text of a message: a string, or blocks `{type: text, text}` (image blocks repeat the row's image)."""
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    if not isinstance(content, list):
        raise row.error(f"expected a string or a list of blocks, got {type(content).__name__}", field)
    texts = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind != "image":
            raise row.error(f"unknown block {block!r}"[:120], field)
    return "\n".join(texts).replace("<image>", "").strip()


def _images(row: _Row, images: ImageStore) -> tuple[ImageRef, ...]:
    value = row.values.get("image")
    if value is None:
        return ()
    names = value if isinstance(value, list) else [value]
    return tuple(_image(row, name, images) for name in names)


def _image(row: _Row, name: Any, images: ImageStore) -> ImageRef:
    if not isinstance(name, str) or not name:
        raise row.error(f"expected a path, got {name!r}", "image")
    root = row.path.parent.resolve()
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise row.error(f"'{name}' lies outside the folder of the file", "image")
        data = path.read_bytes()
    except OSError as error:
        raise row.error(f"'{name}': {error.strerror or error}", "image") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise row.error(f"{name!r}: {error}", "image") from error
    try:
        return images.put(data, name=Path(name).name)
    except ImageError as error:
        raise row.error(f"'{name}': {error.what}", "image") from error
