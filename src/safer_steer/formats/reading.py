"""One pass over a dataset: rows in, records out. A bad row stops it, or is skipped and counted where that was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field

from safer_steer.dialogue import ImageRef, Record
from safer_steer.errors import DataError
from safer_steer.formats.images import Images
from safer_steer.formats.rows import Row, Rows
from safer_steer.image_store import ImageStore

EXAMPLES = 20
"""How many skipped rows are told in full; all are counted."""


class Skips(Record):
    """The rows that were left out because they were wrong: how many, and the errors of the first of them."""

    rows: Annotated[int, Field(ge=0)] = 0
    first: tuple[str, ...] = ()

    def __add__(self, other: Skips) -> Skips:
        return Skips(rows=self.rows + other.rows, first=(*self.first, *other.first)[:EXAMPLES])

    def told(self, source: str) -> str:
        """One line for people."""
        return f"{source}: {self.rows} bad {'row' if self.rows == 1 else 'rows'} skipped, first {self.first[0]}"


class Named(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Named)


class Reading:
    """Reads one dataset at `path` (a file or a folder), its images into `store`.

    `skip_bad_rows`: a row that is wrong is counted in `skips` and left out; otherwise its `DataError` is raised.
    What is wrong with a whole file is raised either way. `root` is the folder that images may not leave.
    """

    def __init__(self, path: Path, store: ImageStore, *, skip_bad_rows: bool = False, root: Path | None = None) -> None:
        self.path, self.store = path, store
        self.folder = path if path.is_dir() else path.parent
        self.images = Images(self.folder if root is None else root, store)
        self.skips = Skips()
        self.repeats = 0
        """Rows that say again what an earlier one said, in formats where that is expected."""
        self._skip = skip_bad_rows
        self._first: dict[str, str] = {}

    def each(self, rows: Rows, build: Callable[[Row], Iterable[T]], *, id_field: str | None) -> Iterator[T]:
        """The records that `build` makes of each row, in order.

        An id that an earlier row has taken is an error in `id_field`; where that is `None` the id stands for the
        content, and a repeat is passed over and counted in `repeats`.
        """
        for row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                made = self._new(row, tuple(build(row)), id_field)
            except DataError as error:
                self._refuse(error)
            else:
                yield from made

    def _new(self, row: Row, made: tuple[T, ...], id_field: str | None) -> list[T]:
        fresh: dict[str, T] = {}
        for record in made:
            known = self._first.get(record.id, row.place if record.id in fresh else None)
            if known is None:
                fresh[record.id] = record
            elif id_field is None:
                self.repeats += 1
            else:
                raise row.error(f"'{record.id}' stands twice: it is already taken by {known}", id_field)
        where = f"{row.place} of {row.file.name}"
        self._first.update(dict.fromkeys(fresh, where))
        return list(fresh.values())

    def _refuse(self, error: DataError) -> None:
        if not self._skip:
            raise error
        self.skips += Skips(rows=1, first=(str(error),))

    def image(self, row: Row, key: str, *bases: str) -> ImageRef:
        """The image file that the field `key` names, relative to the row's file or to `bases` in its folder."""
        row.require([key])
        return self.images.file(row, row.values[key], key, bases=self.bases(row, *bases))

    def bases(self, row: Row, *more: str) -> list[Path]:
        """The folder of the row's file, and folders in it."""
        return [row.file.parent, *(row.file.parent / base for base in more)]

    def cell(self, row: Row, key: str) -> ImageRef:
        """The image in the parquet cell `key`."""
        row.require([key])
        return self.images.cell(row, row.values[key], key)

    def cells(self, row: Row, key: str) -> tuple[ImageRef, ...]:
        """The images in the parquet list `key`; at least one."""
        row.require([key])
        value: Any = row.values[key]
        if not isinstance(value, list) or not value:
            raise row.error("there is no image", key)
        return tuple(self.images.cell(row, cell, f"{key}[{index}]") for index, cell in enumerate(value))
