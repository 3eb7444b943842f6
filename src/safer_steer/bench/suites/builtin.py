"""The built-in suites, which need nothing on disk: `steer-mini` is held out, `steer-mini-val` is for tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safer_steer.construct.suite import build_steer_mini
from safer_steer.dialogue import Script, Split
from safer_steer.formats import Reading


@dataclass(frozen=True, slots=True)
class SteerMini:
    """A `Benchmark` made from the built-in seeds of one split."""

    about: str
    split: Split
    single_turn: bool = False
    needs: None = None

    def files(self, path: Path) -> list[Path]:
        return []

    def scripts(self, reading: Reading) -> Iterator[Script]:
        yield from build_steer_mini(reading.store, split=self.split)
