"""Files as rows: JSON Lines, JSON, CSV and parquet, each row with its place; and finding the files in a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.dialogue import Split
from safer_steer.errors import DataError
from safer_steer.formats.rows import Row, Rows

BATCH_ROWS = 32
"""Parquet rows decoded at a time: each may carry an image of some megabytes."""
READ_AHEAD = 1 << 20
"""Bytes of a column that are buffered; without a limit pyarrow reads a whole row group of images at once."""
MAX_CELL = 16 * 2**20
"""The longest CSV cell that is read, in characters."""


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors about an input file into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, hint="check the path") from error


def find(path: Path, *patterns: str, needs: str) -> list[Path]:
    """`path` itself if it is a file, else what of the first pattern (a glob) that finds anything, sorted.

    `needs` says what the folder should hold. Raises `DataError` if nothing is found.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError("No such file or directory", file=path, hint=f"it needs {needs}")
    for pattern in patterns:
        if found := sorted(place for place in path.glob(pattern) if place.is_file()):
            return found
    raise DataError(f"holds no {' or '.join(patterns)}", file=path, hint=f"it needs {needs}")


def split_files(
    path: Path, globs: Mapping[Split, Sequence[str]], wanted: Split | None, needs: str
) -> list[tuple[Path, Split | None]]:
    """The files of the `wanted` split (of every split, if `None`), each with its own split, found by `globs`.

    A single file belongs to the split whose glob fits its name, else to the `wanted` one. Raises `DataError`.
    """
    if path.is_file():
        own = [split for split, patterns in globs.items() if any(_fits(path, pattern) for pattern in patterns)]
        if wanted is not None and own and wanted not in own:
            raise DataError(f"is the split '{own[0]}', not '{wanted}'", file=path)
        return [(path, wanted if wanted is not None or not own else own[0])]
    chosen = {split: patterns for split, patterns in globs.items() if wanted in (None, split)}
    if not chosen:
        raise DataError(f"there is no split '{wanted}'", file=path, hint=f"choose from {', '.join(globs)}")
    if not path.is_dir():
        raise DataError("No such file or directory", file=path, hint=f"it needs {needs}")
    found = {place: split for split, patterns in chosen.items() for pattern in patterns for place in path.glob(pattern)}
    if not found:
        wished = ", ".join(pattern for patterns in chosen.values() for pattern in patterns)
        raise DataError(f"holds no {wished}", file=path, hint=f"it needs {needs}")
    return sorted(found.items())


def _fits(path: Path, pattern: str) -> bool:
    return fnmatch(path.name, pattern.rsplit("/", 1)[-1])


def jsonl_rows(path: Path, *, lists: bool = False) -> Rows:
    """The lines of a JSON Lines file as rows, those of white space left out, a byte order mark dropped.

    With `lists` a line holds a list, which becomes the field `messages`. A line that is wrong yields its error.
    """
    with file_errors(path), path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                try:
                    yield _json_line(line, path, number, lists)
                except DataError as error:
                    yield error


def _json_line(line: bytes, path: Path, number: int, lists: bool) -> Row:
    wanted = "list" if lists else "object"
    hint = f"one JSON {wanted} a line"
    try:
        text = line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason}", file=path, line=number) from error
    if not lists and text.startswith("["):  # whole, or its first line
        raise DataError("not a JSON object but an array", file=path, line=number, hint=hint)
    try:
        values = _checked(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}, column {error.colno}", file=path, line=number, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", file=path, line=number) from error
    if lists and isinstance(values, list):
        values = {"messages": values}
    if not isinstance(values, dict):
        raise DataError(f"not a JSON {wanted}", file=path, line=number, hint=hint)
    return Row(values, path, line=number)


def _checked(text: str) -> Any:
    values = json.loads(text)
    json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return values


def read_json(path: Path) -> Any:
    """A whole JSON file; raises `DataError`."""
    with file_errors(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason}", file=path) from error
    try:
        return _checked(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", file=path) from error


def json_rows(path: Path) -> Rows:
    """The objects of a JSON array as rows 1, 2, …, or those of a JSON object as rows named by their keys."""
    values = read_json(path)
    if not isinstance(values, list | dict):
        raise DataError("expected a JSON array or object of rows", file=path)
    named: Iterable[tuple[int | str, Any]] = values.items() if isinstance(values, dict) else enumerate(values, 1)
    for name, item in named:
        row = Row(item, path, row=name)
        yield row if isinstance(item, dict) else row.error("not a JSON object")


def csv_rows(path: Path, required: Sequence[str]) -> Rows:
    """The rows of a CSV file with a header, which must name the `required` columns; cells are strings."""
    with file_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(MAX_CELL)
        reader = csv.DictReader(file, strict=True, restkey="", restval=None)
        try:
            header = list(reader.fieldnames) if reader.fieldnames is not None else []
            _guard(path, header, required)
            for number, values in enumerate(reader, 1):
                row = Row(values, path, row=number)
                wrong = "" in values or None in values.values()
                yield row.error(f"has not the {len(header)} cells of the header") if wrong else row
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text: {error.reason}", file=path) from error
        except csv.Error as error:
            raise DataError(f"not CSV: {error}", file=path, line=reader.line_num) from error


def parquet_rows(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, closed: str | None = None
) -> Rows:
    """The rows of a parquet file, with the `required` columns and those of the `optional` ones it has.

    Rows are read in batches, so memory does not grow with the number of rows, only with what one row group (or page of
    it) holds. A file that lacks a required column raises a
    `DataError` naming it; where `closed` names the format, so does a file that has any other column.
    """
    with file_errors(path):
        try:
            file = pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"not a parquet file: {error}", file=path) from error
    with file:
        present = list(file.schema_arrow.names)
        _guard(path, present, required)
        if closed is not None and (unknown := sorted(set(present) - {*required, *optional})):
            hint = f"known columns: {', '.join((*required, *optional))}"
            raise DataError(f"is not a column of {closed}", file=path, field=unknown[0], hint=hint)
        columns = [*required, *(name for name in optional if name in present)]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, path, row=number)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"cannot be read beyond row {number}: {error}", file=path) from error


def _guard(path: Path, present: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in present]
    if missing:
        hint = f"the file has: {', '.join(present)}" if present else "the file is empty"
        raise DataError("the column is missing", file=path, field=missing[0], hint=hint)
