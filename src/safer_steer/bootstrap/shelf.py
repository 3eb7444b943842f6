"""Scripts on disk and a card for each: what choosing among a hundred thousand of them needs to have in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from safer_steer.construct.splits import Card, card_of
from safer_steer.dialogue import Script
from safer_steer.store import disk_errors, record_at


class Shelf:
    """Holds scripts in an unnamed file in `folder` (the system's temporary one by default), gone when it is closed.

    `cards` are sorted by id, whatever order the scripts came in. Raises `StorageError` when the disk is full.
    """

    def __init__(self, scripts: Iterable[Script], folder: Path | None = None) -> None:
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._prints: dict[str, bytes] = {}
        cards = []
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        try:
            for script in scripts:
                line = script.to_json().encode()
                self._prints[script.id] = hashlib.sha256(line).digest()
                cards.append(card_of(script, at=self._file.tell()))
                with disk_errors(self._folder):
                    self._file.write(line + b"\n")
        except BaseException:
            self.close()
            raise
        self.cards = tuple(sorted(cards, key=lambda card: card.id))

    @property
    def digest(self) -> str:
        """What all scripts are, in one hash; their order does not count."""
        return hashlib.sha256(b"".join(self._prints[card.id] for card in self.cards)).hexdigest()

    def script(self, card: Card) -> Script:
        """The script of one of the `cards`."""
        with disk_errors(self._folder):
            return record_at(self._file, card.at, Script)

    def scripts(self, cards: Iterable[Card]) -> Iterator[Script]:
        """The scripts of some cards, one in memory at a time."""
        return map(self.script, cards)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
