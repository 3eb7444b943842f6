"""Replies on disk: every one that was paid for is kept the moment it arrives, and found again by what was asked.

`ReplyFile` is the file: one line a reply, appended whole, safe against a kill at any moment and shared by several
processes. `request_digest` says what "the same request" is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import orjson
from pydantic import BaseModel, ValidationError

from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.actors.endpoint.body import response_format
from safer_steer.dialogue import Record
from safer_steer.errors import StorageError
from safer_steer.store import disk_errors


class Reply(Record):
    """One reply that came: under which key it is found, who was asked in which role, and what was said."""

    key: str
    role: str
    model: str
    completion: Completion


def request_digest(model: str, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None) -> str:
    """What was asked, as a hash: the model with its address, every text, every image's content, how to sample.

    Greedy requests are the same whatever their seed.
    """
    seed = sampling.seed if sampling.temperature > 0 else None
    shape = None if schema is None else _shape(schema)
    said = [(m.role, m.text, [image.sha256 for image in m.images] if m.images else ()) for m in messages]
    how = (sampling.temperature, sampling.top_p, sampling.max_tokens, seed)
    return hashlib.sha256(orjson.dumps((model, said, how, shape))).hexdigest()


@cache
def _shape(schema: type[BaseModel]) -> str:
    return hashlib.sha256(response_format(schema)).hexdigest()


class _Lock:
    """Keeps other processes from writing to an open file."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


class ReplyFile:
    """Replies by key in one append-only file; only the places are held in memory.

    Opening cuts off a half-written last line. What other processes append later is seen at the next opening.
    Raises `StorageError` when the file cannot be read or written; a failed write leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = _Lock(self._file)
        try:
            with disk_errors(path), self._lock:
                self._index()
        except BaseException:
            os.close(self._file)
            raise

    def _index(self) -> None:
        end = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, end)
                    return
                self._places[bytes.fromhex(self._parse(line, end).key)] = (end, len(line))
                end += len(line)

    def _parse(self, line: bytes, at: int) -> Reply:
        try:
            return Reply.from_json(line)
        except ValidationError as error:
            hint = "the file was edited or written by another version; delete it to ask again"
            raise StorageError(f"no reply at byte {at}", where=self.path, hint=hint) from error

    def get(self, key: str) -> Reply | None:
        """The reply kept under `key`, if there is one."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        with disk_errors(self.path):
            return self._parse(os.pread(self._file, place[1], place[0]), place[0])

    def put(self, reply: Reply) -> None:
        """Keep a reply; it is with the system, whole, before this returns."""
        line = reply.to_json().encode() + b"\n"
        with disk_errors(self.path), self._lock:
            start = os.lseek(self._file, 0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):  # a full disk writes a part, and says why at the next try
                    written += os.write(self._file, line[written:])
            except OSError:
                os.ftruncate(self._file, start)
                raise
        self._places[bytes.fromhex(reply.key)] = (start, len(line))

    def __iter__(self) -> Iterator[Reply]:
        with disk_errors(self.path), self.path.open("rb") as lines:
            at = 0
            for line in lines:
                if line.endswith(b"\n"):
                    yield self._parse(line, at)
                at += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        os.close(self._file)
