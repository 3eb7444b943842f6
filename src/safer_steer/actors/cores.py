"""Networks that compute at the same time share the machine's cores instead of crowding them.

A model that writes and a judge that reads live in two threads. If both use every core, each waits at every product
for a thread of its own that the other keeps from running, and both together are slower than one after the other
(measured: an evaluation of the student on two cores took 95 s, and 82 s with one thread for everything).

Threads that torch has not met yet start with the number that was last asked for anywhere: whatever computes says first
what it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local

import torch

_lock = Lock()
_computing = 0
_mine = local()
CORES = torch.get_num_threads()
"""How many threads a network alone uses: what the environment said when torch was loaded."""


@contextmanager
def computing() -> Iterator[None]:
    """The calling thread computes now; others take that into account at their next `take_share`."""
    global _computing
    with _lock:
        _computing += 1
    try:
        yield
    finally:
        with _lock:
            _computing -= 1


def take_share() -> None:
    """Let the calling thread compute with its share of the cores from now on. Call it between products."""
    _use(max(1, CORES // max(1, _computing)))


def take_one() -> None:
    """Let the calling thread compute with one core, whoever else computes: its results never depend on that."""
    _use(1)


def _use(threads: int) -> None:
    if getattr(_mine, "threads", None) != threads:
        torch.set_num_threads(threads)  # of the calling thread
        _mine.threads = threads
