"""Images of a dataset: files that must lie inside its folder, or bytes inside a parquet cell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safer_steer.dialogue import ImageRef
from safer_steer.errors import DataError, ImageError
from safer_steer.formats.rows import Row
from safer_steer.image_store import ImageStore

MAX_IMAGE_BYTES = 64 * 2**20
"""A larger image is refused: before it is read, where it is a file."""


class Images:
    """Puts the images of one dataset into `store`. Files must lie inside `root`, also after following links."""

    def __init__(self, root: Path, store: ImageStore) -> None:
        self.root, self.store = root.resolve(), store
        self._known: dict[Path, ImageRef] = {}
        self._seen: dict[bytes, ImageRef] = {}

    def file(self, row: Row, name: Any, field: str, *, bases: Sequence[Path]) -> ImageRef:
        """The image file `name`, looked for in each of `bases`; raises `ImageError` naming file, row and field."""
        if not isinstance(name, str) or not name.strip():
            raise _fault(row, field, f"expected a path, got {name!r}"[:120])
        try:
            place = self._place(row, name, field, bases)
            if place in self._known:
                return self._known[place].model_copy(update={"name": name})
            if place.stat().st_size > MAX_IMAGE_BYTES:
                raise _fault(row, field, f"{name!r}: larger than {MAX_IMAGE_BYTES // 2**20} MiB")
            data = place.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # unreadable, a NUL in the name, a loop of links
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise _fault(row, field, f"{name[:300]!r}: {said}") from error
        self._known[place] = self._put(row, data, field, name)
        return self._known[place]

    def _place(self, row: Row, name: str, field: str, bases: Sequence[Path]) -> Path:
        places = [(base / name).resolve() for base in bases]
        for place in places:
            if place.is_relative_to(self.root) and place.is_file():
                return place
        if not places[0].is_relative_to(self.root):
            hint = "move the image there; links are followed"
            raise _fault(row, field, f"{name!r}: lies outside the folder {self.root}", hint=hint)
        raise _fault(row, field, f"{name!r}: no such image file", hint=f"paths are relative to {bases[0]}")

    def cell(self, row: Row, cell: Any, field: str, *, bases: Sequence[Path] = ()) -> ImageRef:
        """The image in a parquet cell: bytes, the usual `{bytes, path}`, or a path where `bases` are given."""
        data, name = cell, None
        if isinstance(cell, dict):
            data, name = cell.get("bytes"), cell.get("path")
        if isinstance(data, bytes):
            if len(data) > MAX_IMAGE_BYTES:
                raise _fault(row, field, f"larger than {MAX_IMAGE_BYTES // 2**20} MiB")
            return self._put(row, data, field, name if isinstance(name, str) else None)
        path = name if isinstance(cell, dict) else cell
        if bases and isinstance(path, str):
            return self.file(row, path, field, bases=bases)
        raise _fault(row, field, "there are no image bytes")

    def _put(self, row: Row, data: bytes, field: str, name: str | None) -> ImageRef:
        digest = hashlib.sha256(data).digest()
        if digest in self._seen:  # datasets repeat images; decoding them is what costs
            return self._seen[digest].model_copy(update={"name": name})
        try:
            self._seen[digest] = ref = self.store.put(data, name=name)
            return ref
        except ImageError as error:
            said = error.what if name is None else f"{name!r}: {error.what}"
            raise _fault(row, field, said, hint=error.hint) from error


def _fault(row: Row, field: str, what: str, *, hint: str | None = None) -> DataError:
    return ImageError(what, file=row.file, line=row.line, row=row.row, field=row.field(field), hint=hint)
