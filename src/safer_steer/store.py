"""Files of a run: written whole or not at all, records a line each, append-only journals."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from pydantic import ValidationError

from safer_steer.dialogue import Record
from safer_steer.errors import StorageError

R = TypeVar("R", bound=Record)


class disk_errors:
    """Turns operating-system errors about `path` into one `StorageError` that says what to do.

    A class, not a generator: every reply that is kept passes through it.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            hint = "free some space and run the same command again: it resumes" if full else None
            raise StorageError(error.strerror or str(error), where=self._path, hint=hint) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or leave the old one: temporary file beside it, then rename. Raises `StorageError`."""
    write_stream(path, [data.encode() if isinstance(data, str) else data])


def write_stream(path: Path, pieces: Iterable[bytes]) -> None:
    """`write_atomic` of pieces that never stand in memory together. Raises `StorageError`, and what they raise."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON; refuses NaN and infinities."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write a whole JSONL file atomically, one record in memory at a time; returns the number of records."""
    number = 0

    def lines() -> Iterator[bytes]:
        nonlocal number
        for record in records:
            number += 1
            yield record.to_json().encode() + b"\n"

    write_stream(path, lines())
    return number


def read_records(path: Path, record: type[R]) -> Iterator[R]:
    """Stream a JSONL file; a line that is not a `record` raises `StorageError` naming file and line."""
    for _, entry in read_placed(path, record):
        yield entry


def read_placed(path: Path, record: type[R]) -> Iterator[tuple[int, R]]:
    """`read_records` with the byte at which each line begins, for `record_at`."""
    at = 0
    with disk_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield at, parse_record(line, record, path, number)
            at += len(line)


def record_at(file: IO[bytes], at: int, record: type[R]) -> R:
    """The record whose line begins at byte `at` of an open file."""
    file.seek(at)
    return record.from_json(file.readline())


def parse_record(line: bytes, record: type[R], path: Path, number: int) -> R:
    """One line of a JSONL file; raises `StorageError` naming file and line."""
    try:
        return record.from_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"not a {record.__name__}: {place}: {first['msg']}" if place else first["msg"]
        hint = "the file was edited or written by another version"
        raise StorageError(problem, where=f"{path}:{number}", hint=hint) from error


class Journal(Generic[R]):
    """An append-only JSONL file, one record a line, resumed by key.

    Each record is handed to the system whole before `append` returns, so a killed process loses at most the
    record it was writing; opening cuts off such a half-written last line. A key stands in it once.

    Opening reads the file once. Entries for which `drop` holds are taken out of it, so that they are done again;
    every other one is shown to `visit`.
    """

    def __init__(
        self,
        path: Path,
        record: type[R],
        key: Callable[[R], str],
        *,
        drop: Callable[[R], bool] = lambda entry: False,
        visit: Callable[[R], None] = lambda entry: None,
    ) -> None:
        self.path, self._record, self._key = path, record, key
        self.keys: set[str] = set()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        try:
            with disk_errors(path):
                self._drop_half_line()
            dropped = False
            for entry in self:
                if drop(entry):
                    dropped = True
                else:
                    self.keys.add(key(entry))
                    visit(entry)
            if dropped:
                self._rewrite(drop)
        except BaseException:
            self._file.close()
            raise

    def _drop_half_line(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if line.endswith(b"\n"):
                end += len(line)
        self._file.truncate(end)

    def _rewrite(self, drop: Callable[[R], bool]) -> None:
        self._file.close()
        write_records(self.path, (entry for entry in self if not drop(entry)))
        with disk_errors(self.path):
            self._file = self.path.open("ab+")

    def append(self, entry: R) -> int:
        """Add one record; returns its length in bytes.

        Raises `StorageError` (disk full: nothing half-written stays) or on a key already there.
        """
        key = self._key(entry)
        if key in self.keys:
            raise StorageError(f"'{key}' is already recorded", where=self.path)
        with disk_errors(self.path):
            end = self._file.seek(0, os.SEEK_END)
            try:
                written = self._file.write(entry.to_json().encode() + b"\n")
                self._file.flush()
            except OSError:
                self._reopen_at(end)
                raise
        self.keys.add(key)
        return written

    def _reopen_at(self, end: int) -> None:
        """Forget what a failed write left in the buffer and in the file."""
        descriptor = os.dup(self._file.fileno())
        with contextlib.suppress(OSError):  # closing flushes the same bytes again; the disk is still full
            self._file.close()
        os.ftruncate(descriptor, end)
        os.close(descriptor)
        self._file = self.path.open("ab+")

    def __iter__(self) -> Iterator[R]:
        yield from read_records(self.path, self._record)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal[R]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON-able parts: what a stage was run with."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
