"""Stage I's work as one stream: each order is prepared, written and attacked on its own, and noted at every step.

No step waits for the others' orders, so servers are busy from the first seed to the last. An order is taken up only
when there is room (`recipe.open_dialogues`), and what is finished stands in a journal, not in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from safer_steer.actors.ledger import Ledger
from safer_steer.config import BudgetConfig
from safer_steer.construct.outage import interrupted, interruption, refuse_outage, rollout_key
from safer_steer.construct.plan import Order
from safer_steer.construct.records import Analysed, Probed, Written, unanswered
from safer_steer.construct.success import outcome
from safer_steer.construct.writing import Writer
from safer_steer.converse import converse
from safer_steer.dialogue import Record, Rollout, Script, Seed, SeedKind
from safer_steer.limits import Price
from safer_steer.progress import Reporter
from safer_steer.runner import Job, bounded
from safer_steer.seats import Cast
from safer_steer.store import Journal

P = TypeVar("P", Probed, Analysed)
R = TypeVar("R", bound=Record)

OPEN_SEEDS = 256
"""Preparations of so many seeds are kept at hand; the orders of one seed follow each other, so more are not needed."""


class Stream:
    """Everything Stage I asks for, journalled in `folder` and resumed from there. Use it once, as `await work(…)`.

    Without a `cast` no attack is played: the success filter is off. `ledger` holds what was spent.
    """

    def __init__(
        self,
        folder: Path,
        writer: Writer,
        cast: Cast | None,
        budget: BudgetConfig,
        prices: Mapping[str, Price],
        report: Reporter,
    ) -> None:
        self._writer, self._cast, self._report = writer, cast, report
        self._open = ExitStack()
        self._waiting: dict[str, Written] = {}  # red-team scripts whose attack was not played to its end
        self._attacks = self._journal(folder / "attacks.jsonl", Rollout, rollout_key, interrupted)
        self._written = self._journal(folder / "generated.jsonl", Written, _key, unanswered, self._recall)
        probed: dict[str, Probed] = {}
        analysed: dict[str, Analysed] = {}
        probes = self._journal(folder / "probes.jsonl", Probed, _seed_id, unanswered, _into(probed))
        analyses = self._journal(folder / "analyses.jsonl", Analysed, _seed_id, unanswered, _into(analysed))
        done: dict[str, Journal[Any]] = {
            "attack": self._attacks,
            "write": self._written,
            "probe": probes,
            "analyse": analyses,
        }
        self.ledger = Ledger(folder / "calls.jsonl", budget, prices, lambda item: _stands_in(done, item))
        self._probes = Prepared("probe", probes, writer.probe, self.ledger, probed)
        self._analyses = Prepared("analyse", analyses, writer.analyse, self.ledger, analysed)
        self._undone: dict[str, list[str]] = {"scripts": [], "dialogues": []}
        self._played = self._succeeded = 0

    def _journal(
        self,
        path: Path,
        record: type[R],
        key: Callable[[R], str],
        drop: Callable[[R], bool],
        visit: Callable[[R], None] = lambda entry: None,
    ) -> Journal[R]:
        return self._open.enter_context(Journal(path, record, key, drop=drop, visit=visit))

    def _recall(self, entry: Written) -> None:
        if entry.is_filtered and entry.script is not None and Job(entry.script).key not in self._attacks:
            self._waiting[entry.key] = entry

    async def work(self, orders: Iterable[Order], limit: int, max_undone_share: float) -> dict[str, int]:
        """Do what is not done yet, at most `limit` orders at a time; returns how much got no answer.

        Raises `Incomplete` when that is more than a share of the orders or of the attacks, `BudgetSpent`, and
        `StorageError`.
        """
        total = 0

        def todo() -> Iterable[Order]:
            nonlocal total
            for order in orders:
                total += 1
                if order.key not in self._written or (self._cast is not None and order.key in self._waiting):
                    yield order

        async with self.ledger:
            try:
                with self._report.stage("construct", None):
                    async for _ in bounded(todo(), self._one, limit):
                        played = {} if self._cast is None else {"attacks": self._played, "succeeded": self._succeeded}
                        self._report.advance(scripts=len(self._written), **played)
            finally:
                self._probes.cancel()
                self._analyses.cancel()
                self._open.close()
        refuse_outage("construct", "scripts", self._undone["scripts"], total, max_undone_share)
        refuse_outage("construct", "dialogues", self._undone["dialogues"], len(self._attacks), max_undone_share)
        return {what: len(undone) for what, undone in self._undone.items()}

    async def _one(self, order: Order) -> None:
        entry = self._waiting.pop(order.key, None)
        if entry is None:
            entry = await self._write(order)
        if self._cast is not None and entry.is_filtered and entry.script is not None:
            await self._attack(entry.script, self._cast)

    async def _write(self, order: Order) -> Written:
        probed = analysed = None
        if order.seed.kind is SeedKind.HARMFUL:
            if order.strategy is None:
                probed = await self._probes.of(order.seed)
            else:
                analysed = await self._analyses.of(order.seed)
        item = f"write/{order.key}"
        with self.ledger.item(item):
            entry = await self._writer.write(order, probed, analysed)
        self._written.append(entry)
        if entry.failure is not None and unanswered(entry):
            self._undone["scripts"].append(entry.failure.detail)  # what it was told is kept for the next sitting
        else:
            self.ledger.close_item(item)
        return entry

    async def _attack(self, script: Script, cast: Cast) -> None:
        job = Job(script)
        item = f"attack/{job.key}"
        with self.ledger.item(item):
            rollout = await converse(script, cast)
        self._attacks.append(rollout)
        self._played += 1
        self._succeeded += isinstance(outcome(rollout), Script)
        why = interruption(rollout)
        if why is None:
            self.ledger.close_item(item)
        else:
            self._undone["dialogues"].append(why)


class Prepared(Generic[P]):
    """What is made once for each seed and then used by several of its orders: made by the first that needs it."""

    def __init__(
        self,
        name: str,
        journal: Journal[P],
        make: Callable[[Seed], Awaitable[P]],
        ledger: Ledger,
        known: dict[str, P],
    ) -> None:
        self._name, self._ledger = name, ledger
        self._journal: Journal[P] = journal
        self._make: Callable[[Seed], Awaitable[P]] = make
        self._known: dict[str, P] = known
        self._making: dict[str, asyncio.Task[P]] = {}

    async def of(self, seed: Seed) -> P:
        """This seed's; from the journal if it stands there."""
        known = self._known.get(seed.id)
        if known is not None:
            return known
        task = self._making.get(seed.id)
        if task is None:
            task = self._making[seed.id] = asyncio.ensure_future(self._prepare(seed))
            self._forget_old()
        return await asyncio.shield(task)

    async def _prepare(self, seed: Seed) -> P:
        item = f"{self._name}/{seed.id}"
        with self._ledger.item(item):
            entry = await self._make(seed)
        self._journal.append(entry)
        if not unanswered(entry):
            self._ledger.close_item(item)
        return entry

    def _forget_old(self) -> None:
        for name in list(self._making)[: max(0, len(self._making) - OPEN_SEEDS)]:
            if self._making[name].done():
                del self._making[name]

    def cancel(self) -> None:
        for task in self._making.values():
            if not task.cancel() and not task.cancelled():
                task.exception()  # whoever waited for it may have been cancelled before


def _seed_id(entry: Probed | Analysed) -> str:
    return entry.seed_id


def _key(entry: Written) -> str:
    return entry.key


def _into(known: dict[str, P]) -> Callable[[P], None]:
    return lambda entry: known.update({entry.seed_id: entry})


def _stands_in(journals: Mapping[str, Journal[Any]], item: str) -> bool:
    """Whether a ledger's item is on disk, so that what it was told is not needed any more."""
    name, _, key = item.partition("/")
    return key in journals[name]
