"""Progress for people: a live display on a terminal, plain lines elsewhere, silence in tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


class Reporter(Protocol):
    """What a stage tells about its progress. `facts` are short figures shown beside the bar."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[None]:
        """Open a bar of `total` units for the stage `name` (`None`: unknown)."""
        ...

    def advance(self, n: int = 1, **facts: object) -> None:
        """`n` more units are done."""
        ...

    def note(self, text: str) -> None:
        """Say one line."""
        ...


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[None]:
        yield

    def advance(self, n: int = 1, **facts: object) -> None:
        return

    def note(self, text: str) -> None:
        return


def _facts(facts: dict[str, object]) -> str:
    return "  ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
    )


def _clock(seconds: float) -> str:
    """A rough duration.

    >>> _clock(42.4), _clock(754), _clock(7300)
    ('42 s', '13 min', '2 h 02 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class PlainLines:
    """One line at a stage's start and end, and at most one every `interval` seconds between."""

    def __init__(self, out: TextIO | None = None, interval: float = 10.0) -> None:
        self._out = sys.stderr if out is None else out
        self._interval = interval
        self._name = ""
        self._total: int | None = None
        self._done, self._began, self._last = 0, 0.0, 0.0
        self._facts: dict[str, object] = {}

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[None]:
        self._name, self._total, self._done, self._facts = name, total, 0, {}
        self._began = self._last = time.monotonic()
        self.note(f"{name}: starts" + ("" if total is None else f" ({total})"))
        yield
        self._line(f"done in {time.monotonic() - self._began:.1f} s")

    def advance(self, n: int = 1, **facts: object) -> None:
        self._done += n
        self._facts = {**self._facts, **facts}
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            self._line(f"{self._last - self._began:.0f} s{self._left(self._last - self._began)}")

    def _left(self, elapsed: float) -> str:
        """How long the rest takes at the mean speed so far."""
        if self._total is None or not 0 < self._done < self._total:
            return ""
        return f", about {_clock(elapsed * (self._total - self._done) / self._done)} left"

    def _line(self, tail: str) -> None:
        count = f"{self._done}" + ("" if self._total is None else f"/{self._total}")
        facts = _facts(self._facts)
        self.note(f"{self._name}: {count}  {facts}{'  ' if facts else ''}{tail}")

    def note(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class Live:
    """A rich progress bar per stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._facts: dict[str, object] = {}

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[None]:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(),
            TextColumn("{task.fields[facts]}"),
        )
        with Progress(*columns, console=self._console, speed_estimate_period=600) as progress:
            self._progress, self._facts = progress, {}
            self._task = progress.add_task(name, total=total, facts="")
            try:
                yield
            finally:
                self._progress = self._task = None

    def advance(self, n: int = 1, **facts: object) -> None:
        if self._progress is not None and self._task is not None:
            self._facts = {**self._facts, **facts}
            self._progress.update(self._task, advance=n, facts=_facts(self._facts))

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def reporter(stream: TextIO | None = None) -> Reporter:
    """The reporter that suits `stream` (standard error by default)."""
    out = sys.stderr if stream is None else stream
    return Live(Console(file=out)) if out.isatty() else PlainLines(out)
