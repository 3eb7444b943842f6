"""How long a stage took and how much memory it needed at its peak."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

INTERVAL = 0.2


@dataclass(slots=True)
class Measured:
    """Wall seconds, CPU seconds, and peak resident memory in MB, of the whole once the `measure()` block has ended."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.monotonic)
    _cpu: float = field(default_factory=time.process_time)

    def figures(self) -> dict[str, Any]:
        """So far, as long as the block runs."""
        if not self._stop.is_set():
            self.look()
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "peak_mb": round(self.peak_mb),
        }

    def look(self) -> None:
        """Bring the figures up to now."""
        self.seconds, self.cpu_seconds = time.monotonic() - self._began, time.process_time() - self._cpu
        self.peak_mb = max(self.peak_mb, psutil.Process().memory_info().rss / 2**20)


@contextmanager
def sparing_collector() -> Iterator[None]:
    """While thousands of requests are made: do not look through every module's objects for garbage again and again.

    What exists at the start is left out of the collections, and they are rarer; both end with the block. Who has left
    objects out before keeps them so: there is no thawing only one's own.
    """
    before, thawed = gc.get_threshold(), gc.get_freeze_count() == 0
    if thawed:
        gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if thawed:
            gc.unfreeze()


def release_memory() -> None:
    """Give what a finished stage freed back to the system: glibc would keep it, and the next stage pays for it."""
    gc.collect()
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


LARGE = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # the option's number in glibc's malloc.h


def keep_large_blocks_apart() -> None:
    """Let glibc map every block of `LARGE` bytes or more by itself, so that freeing it gives it back.

    Left alone it raises that bound to 32 MB with use; then buffers that grow (keys and values, activations) leave
    holes that nothing fits in, and a long run takes half as much again as it needs.
    """
    if (choose := _of_glibc("mallopt")) is not None:
        choose(_M_MMAP_THRESHOLD, LARGE)


def _of_glibc(name: str) -> Any:
    """A function of the C library that this process runs on; `None` where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def measure() -> Iterator[Measured]:
    """Measure the block; memory is this process's, sampled five times a second."""
    measured = Measured()

    def watch() -> None:
        while not measured._stop.wait(INTERVAL):
            measured.look()

    watcher = threading.Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        yield measured
    finally:
        measured._stop.set()
        watcher.join()
        measured.look()
