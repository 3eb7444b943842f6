"""Many dialogues at once: bounded concurrency, every finished one journalled at once, resumed by key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from safer_steer.converse import converse
from safer_steer.dialogue import Rollout, Script
from safer_steer.seats import Cast
from safer_steer.store import Journal

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Job:
    """One dialogue to play: a script and the number of the sample."""

    script: Script
    sample: int = 0

    @property
    def key(self) -> str:
        """The same key as the `Rollout` it becomes."""
        return f"{self.script.id}#{self.sample}"


async def bounded(items: Iterable[T], work: Callable[[T], Awaitable[U]], limit: int) -> AsyncIterator[tuple[T, U]]:
    """Run `work` over a stream of items, at most `limit` at a time; yields results as they finish.

    Items are taken only when there is room, so memory does not grow with their number. The first error cancels
    the rest and is raised.
    """
    source = iter(items)
    running: dict[asyncio.Task[U], T] = {}
    finished: asyncio.Queue[asyncio.Task[U]] = asyncio.Queue()
    try:
        while True:
            while len(running) < limit:
                try:
                    item = next(source)
                except StopIteration:
                    break
                task = asyncio.ensure_future(work(item))
                task.add_done_callback(finished.put_nowait)
                running[task] = item
            if not running:
                return
            task = await finished.get()  # `asyncio.wait` would look through all that run for each that ends
            yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def play(
    jobs: Iterable[Job],
    cast: Cast,
    journal: Journal[Rollout],
    *,
    open_dialogues: int,
    on_finish: Callable[[Rollout], None] = lambda rollout: None,
    within: Callable[[str], AbstractContextManager[None]] = lambda key: nullcontext(),
) -> None:
    """Play every job that the journal does not hold yet, and append each dialogue as it ends.

    `within(key)` is open while a job is played: a ledger's item.
    """
    todo = (job for job in jobs if job.key not in journal)

    async def one(job: Job) -> Rollout:
        with within(job.key):
            return await converse(job.script, cast, sample=job.sample)

    async for _, rollout in bounded(todo, one, open_dialogues):
        journal.append(rollout)
        on_finish(rollout)
