"""One row of a dataset, whatever file it comes from: typed access, and errors that name file, row and field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safer_steer.errors import DataError


class Row:
    """The values of one row and where it stands: `line` in a text file, else `row` (a number from 1, or a key).

    Rows inside rows (the messages of a dialogue) are rows too: their fields read `dialogue[2].role`.
    """

    def __init__(
        self, values: Any, file: Path, *, line: int | None = None, row: int | str | None = None, prefix: str = ""
    ) -> None:
        self.values, self.file, self.line, self.row, self._prefix = values, file, line, row, prefix

    @property
    def place(self) -> str:
        """`line 3`, `row 7` or `row 'id'`: for sentences about another row of the same file."""
        return f"line {self.line}" if self.line is not None else f"row {self.row}"

    @property
    def number(self) -> int | str:
        """The line, or the number or key of the row."""
        return self.line if self.line is not None else "" if self.row is None else self.row

    def error(self, what: str, field: str | None = None, *, hint: str | None = None) -> DataError:
        """A `DataError` about this row."""
        return DataError(what, file=self.file, line=self.line, row=self.row, field=self.field(field), hint=hint)

    def field(self, name: str | None) -> str | None:
        """The full name of a field of this row."""
        if name is None:
            return self._prefix or None
        return f"{self._prefix}.{name}" if self._prefix else name

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self._mapping().get(key) is not None

    def require(self, keys: Iterable[str]) -> None:
        """The schema guard of formats without a schema: raises `DataError` naming the first key that is missing."""
        for key in keys:
            if key not in self._mapping():
                raise self.error("is missing", key)

    def only(self, keys: Iterable[str], what: str) -> None:
        """Refuse keys that are not in `keys`; `what` says of what they are no field."""
        known = list(keys)
        if unknown := sorted(set(self._mapping()) - set(known)):
            raise self.error(f"is not a {what} field", unknown[0], hint=f"known keys: {', '.join(known)}")

    def text(self, key: str) -> str:
        """A string with something in it, stripped."""
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"expected a non-empty string, got {_short(value)}", key)
        return _encodable(self, value, key).strip()

    def texts(self, key: str) -> list[str]:
        """A list of at least one string with something in it."""
        value = self._value(key)
        if not isinstance(value, list) or not value:
            raise self.error(f"expected a list of strings, got {_short(value)}", key)
        return [Row({f"{key}[{i}]": v}, self.file, **self._at()).text(f"{key}[{i}]") for i, v in enumerate(value)]

    def optional_text(self, key: str) -> str | None:
        """A string, or `None` where the key is missing, null or blank."""
        value = self._mapping().get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return self.text(key)

    def identity(self, key: str) -> str:
        """An id: a non-empty string or an integer."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise self.error(f"expected a non-empty string or an integer, got {_short(value)}", key)
        return _encodable(self, str(value), key).strip()

    def truth(self, key: str) -> bool:
        """A boolean; CSV files spell it `True` and `False`."""
        value = self._value(key)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, got {_short(value)}", key)
        return value

    def integer(self, key: str) -> int:
        """An integer, not a boolean."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"expected an integer, got {_short(value)}", key)
        return value

    def inner(self, key: str) -> Row:
        """An object within this row."""
        value = self._value(key)
        if not isinstance(value, dict):
            raise self.error(f"expected an object, got {_short(value)}", key)
        return Row(value, self.file, **self._at(), prefix=self.field(key) or "")

    def each(self, key: str) -> Iterator[Row]:
        """The objects of a list within this row."""
        value = self._value(key)
        if not isinstance(value, list):
            raise self.error(f"expected a list, got {_short(value)}", key)
        for index, item in enumerate(value):
            inside = Row(item, self.file, **self._at(), prefix=f"{self.field(key)}[{index}]")
            if not isinstance(item, dict):
                raise inside.error(f"expected an object, got {_short(item)}")
            yield inside

    def _at(self) -> dict[str, Any]:
        return {"line": self.line, "row": self.row}

    def _value(self, key: str) -> Any:
        if key not in self._mapping():
            raise self.error("is missing", key)
        return self.values[key]

    def _mapping(self) -> Mapping[str, Any]:
        if not isinstance(self.values, dict):
            raise self.error(f"expected an object, got {_short(self.values)}")
        return self.values


Rows = Iterator[Row | DataError]
"""What a source yields: a row, or the error that stands in a row's place (and may be skipped by the flag)."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _encodable(row: Row, value: str, key: str) -> str:
    """`value`, unless it holds half a surrogate pair, which no file and no request could carry."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise row.error(f"not text: {error.reason}", key) from error
    return value
