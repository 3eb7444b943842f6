"""One run's folder: its images, who works in it, what each stage was begun with and what it recorded."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safer_steer.errors import StorageError
from safer_steer.image_store import ImageStore
from safer_steer.store import disk_errors, write_json


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

    def claimed(self, name: str) -> str | None:
        """The fingerprint that a stage's folder is bound to, or `None` while nobody claimed it."""
        found = self._read(self.root / name / "inputs.json")
        return None if found is None else found.get("inputs")

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
