"""Where things lie on disk: content-addressed images, append-only journals, atomic files, and run folders."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from safer_steer.dialogue import ImageRef, Record
from safer_steer.errors import ImageError, StorageError

MAX_PIXELS = 40_000_000
"""An image with more pixels is refused before it is decoded (decompression bombs)."""

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


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MEDIA_TYPES = {**{name: f"image/{name.lower()}" for name in FORMATS}, "MPO": "image/jpeg"}  # MPO: from some cameras
_SUFFIX = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp"}


class ImageStore:
    """Images by the sha256 of their bytes, in one folder; `put` is idempotent."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders its images may lie in."""
        return (self.root,)

    def put(self, data: bytes, *, name: str | None = None, where: str | None = None) -> ImageRef:
        """Check that `data` decodes as an image and keep it. Raises `ImageError` (empty, corrupt, too many pixels)."""
        ref = inspect_image(data, name=name, where=where)
        path = self.path(ref)
        if not path.exists():
            write_atomic(path, data)
        return ref

    def path(self, ref: ImageRef) -> Path:
        return self.root / f"{ref.sha256}.{_SUFFIX.get(ref.media_type, 'bin')}"

    def read(self, ref: ImageRef) -> bytes:
        """The bytes of `ref`; raises `ImageError` when they are missing or are not the ones named."""
        path = self.path(ref)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error), file=path, hint="the run folder lost an image") from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise ImageError("the bytes do not match their name", file=path, hint="the file was changed; restore it")
        return data

    def open(self, ref: ImageRef) -> Image.Image:
        """`ref` decoded to RGB."""
        with Image.open(io.BytesIO(self.read(ref))) as image:
            return image.convert("RGB")


def inspect_image(data: bytes, *, name: str | None = None, where: str | None = None) -> ImageRef:
    """Decode `data` fully and describe it; raises `ImageError`. Only kinds of image that model servers take count."""
    if not data:
        raise ImageError("the image is empty", file=where)
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width}x{height} pixels, more than the {MAX_PIXELS} allowed", file=where)
            image.load()
            media_type = _MEDIA_TYPES[image.format or ""]
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), file=where) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not a readable image: neither {', '.join(FORMATS)}", file=where) from error
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise ImageError(f"not a readable image: {error}", file=where) from error
    digest = hashlib.sha256(data).hexdigest()
    return ImageRef(sha256=digest, media_type=media_type, width=width, height=height, name=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's own warnings about an image: what it only warns of, `inspect_image` decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON-able parts: what a stage was run with."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class RunFolder:
    """One run on disk: `images/`, a folder per stage, and a `stage.json` in each finished one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = ImageStore(root / "images")
        self._figures: tuple[str, Callable[[], Mapping[str, Any]]] = "", dict

    def stage(self, name: str) -> Path:
        """The folder of a stage, made if need be."""
        path = self.root / name
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of the folder; raises `StorageError` when one is at work in it.

        The lock is the system's and ends with the process, however that ends; the file it hangs on may stay.
        """
        path = self.root / ".lock"
        with disk_errors(path):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
                hint = "wait for it to end, or choose another --out"
                what = (
                    f"another process ({who}) is at work in this folder" if who else "another process is at work here"
                )
                raise StorageError(what, where=self.root, hint=hint) from None
            with contextlib.suppress(OSError):  # the number is for people; a full disk must not stop the resume
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def claim(self, name: str, inputs: str, parts: Mapping[str, str] | None = None) -> None:
        """Bind a stage's folder to the fingerprint of its inputs; raises `StorageError` if it belongs to another.

        With `parts`, fingerprints of the inputs one by one, the error names those that differ.
        """
        path = self.stage(name) / "inputs.json"
        found = self._read(path)
        if found is None:
            write_json(path, {"inputs": inputs} if parts is None else {"inputs": inputs, "parts": dict(parts)})
        elif found.get("inputs") != inputs:
            known = found.get("parts")
            before = known if isinstance(known, dict) else {}
            other = [
                part for part, value in ({} if parts is None else parts).items() if before.get(part, value) != value
            ]
            hint = f"choose another --out, or delete {self.root / name} to start this stage afresh"
            what = " and ".join(f"another {part}" for part in other) if other else "another recipe"
            raise StorageError(f"this stage was begun with {what}", where=self.root / name, hint=hint)

    def finished(self, name: str) -> dict[str, Any] | None:
        """What `finish` recorded, or `None` while the stage is not done."""
        return self._read(self.root / name / "stage.json")

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Mark a stage done, with its counts and timings."""
        beside = self._figures[1]() if self._figures[0] == name else {}
        write_json(self.stage(name) / "stage.json", {**result, **beside})

    @contextmanager
    def noting(self, name: str, figures: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Inside, `finish(name)` records what `figures` tells beside the result: a kill right after it loses none."""
        self._figures = name, figures
        try:
            yield
        finally:
            self._figures = "", dict

    def reopen(self, name: str) -> None:
        """Take back `finish`: the stage is worked on again."""
        path = self.root / name / "stage.json"
        with disk_errors(path):
            path.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot be read: {error}", where=path) from error
        if not isinstance(value, dict):
            raise StorageError("is not a JSON object", where=path)
        return value
