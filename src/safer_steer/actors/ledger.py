"""What has been asked and paid for: every call that a server answered is noted at once, and never made again.

A stage opens a `Ledger` in its folder and does each piece of work inside `ledger.item(key)`. A model wrapped in
`MeteredModel` then notes each of its replies under that item before anybody uses it. When the process is killed in the
middle of an item and run again, the item starts afresh, but the replies it already had are read from the ledger. What a
finished item was told is forgotten (`close`); only the sums stay, so file and memory do not grow with the run.

Stages I and II work with this: a budget, and no more on disk than what is under way. An evaluation keeps every reply
for good, by dialogue and role, in a `remembering.Memory`; a stage opens one or the other, never both. Either knows a
request by `replies.request_digest` and counts and prices by `spending`.

The budget lies here too, and it binds whatever a server keeps to itself: tokens it does not tell are estimated and
counted as such (`spending`). Once it is spent no further call begins, those under way are waited for and noted
(`settle`), and the stage ends with `BudgetSpent`. With a larger budget the same command goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel

from safer_steer.actors.chat import ChatModel, Completion, Message, Sampling
from safer_steer.actors.replies import request_digest
from safer_steer.actors.spending import Counted, Spent, cost_of, count
from safer_steer.config import BudgetConfig
from safer_steer.dialogue import Record
from safer_steer.errors import BudgetSpent
from safer_steer.limits import Price
from safer_steer.scope import Scope
from safer_steer.store import Journal, write_json, write_records

COMPACT_AFTER = 32 * 2**20
"""Bytes of replies after which those of finished items are taken out of the file."""

SETTLE_SECONDS = 60.0
"""How long `settle` waits for calls under way before it gives them up."""


class _Line(Record):
    """One line of the file: a reply with its tokens, or (`sums`) what all that no longer stand in it came to."""

    key: str
    item: str = ""
    model: str = ""
    reply: Completion | None = None
    counted: Counted | None = None
    sums: dict[str, Spent] | None = None


def _line_key(line: _Line) -> str:
    return line.key


def _counted(line: _Line) -> Counted:
    """A reply's tokens; a line of an older version has only what the server told, or an estimate of the answer."""
    assert line.reply is not None
    return count((), line.reply) if line.counted is None else line.counted


class Ledger:
    """The calls of one stage, in `path`. `prices` by address; `finished(item)` says whose replies are not needed."""

    def __init__(
        self,
        path: Path,
        budget: BudgetConfig,
        prices: Mapping[str, Price] | None = None,
        finished: Callable[[str], bool] = lambda item: False,
    ) -> None:
        self.path, self.budget = path, budget
        self.prices = {} if prices is None else prices
        self.spent: dict[str, Spent] = {}
        self._known: dict[str, dict[str, Completion]] = {}
        self._finished = finished
        self._closed: set[str] = set()
        self._under_way: set[asyncio.Task[Completion]] = set()
        self._bytes = 0
        self._journal = Journal(self.path, _Line, _line_key, visit=self._recall)

    def _recall(self, line: _Line) -> None:
        if line.sums is not None:
            self.spent = dict(line.sums)
        elif line.reply is not None:
            self._add(line.model, _counted(line))
            if not self._finished(line.item):
                self._known.setdefault(line.item, {})[line.key.rpartition("/")[2]] = line.reply

    def _add(self, model: str, call: Counted) -> None:
        self.spent[model] = self.spent.get(model, Spent()).plus(call)

    @contextmanager
    def item(self, key: str) -> Iterator[None]:
        """Calls made inside, also by tasks begun inside, belong to the item `key`."""
        token = _CURRENT.set((self, Scope(key)))
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def close_item(self, key: str) -> None:
        """The item's result is on disk: what it was told is not needed any more."""
        self._known.pop(key, None)
        self._closed.add(key)
        if self._bytes > COMPACT_AFTER:
            self._compact()

    async def ask(
        self,
        item: Scope,
        address: str,
        model: ChatModel,
        messages: Sequence[Message],
        sampling: Sampling,
        schema: type[BaseModel] | None,
    ) -> Completion:
        """The reply that is on record, or the model's, noted before it is returned. Raises `BudgetSpent`.

        Equal requests of one item are told apart by number: each is paid for, and has a reply of its own. A caller
        that is cancelled leaves the call running: its reply is paid for, so it is noted all the same.
        """
        key = request_digest(address, messages, sampling, schema)[:32]
        if nth := item.occurrence(key):
            key = f"{key}.{nth}"
        known = self._known.get(item.key, {}).get(key)
        if known is not None:
            return known
        self._admit()
        call = asyncio.ensure_future(self._call(item.key, key, address, model, messages, sampling, schema))
        self._under_way.add(call)
        call.add_done_callback(self._returned)
        return await asyncio.shield(call)

    async def _call(
        self,
        item: str,
        key: str,
        address: str,
        model: ChatModel,
        messages: Sequence[Message],
        sampling: Sampling,
        schema: type[BaseModel] | None,
    ) -> Completion:
        try:
            reply = await model.complete(messages, sampling, schema)
            counted = count(messages, reply)
            line = _Line(key=f"{item}/{key}", item=item, model=address, reply=reply, counted=counted)
            if line.key not in self._journal:  # the item was begun twice, and not read from the file in between
                self._bytes += self._journal.append(line)
            self._add(address, counted)
            return reply
        finally:  # now, not when the loop says that the task is done: others would be admitted in between
            self._under_way.discard(cast("asyncio.Task[Completion]", asyncio.current_task()))

    def _returned(self, call: asyncio.Task[Completion]) -> None:
        self._under_way.discard(call)  # one cancelled before it began
        if not call.cancelled():
            call.exception()  # its caller may be gone: then nobody else asks for it

    def _admit(self) -> None:
        """Let a call begin, or raise. Calls under way count, tokens and cost with what such calls came to so far."""
        budget, waiting = self.budget, len(self._under_way)
        calls = sum(spent.calls for spent in self.spent.values())
        scale = 1 + (waiting + 1) / calls if calls else 1.0
        tokens = sum(spent.tokens for spent in self.spent.values())
        cost = cost_of(self.prices, self.spent)
        for name, limit, reached in (
            ("calls", budget.calls, calls + waiting + 1),
            ("tokens", budget.tokens, tokens * scale),
            ("cost", budget.cost, None if cost is None else cost * scale),
        ):
            if limit is not None and reached is not None and reached > limit:
                hint = f"raise budget.{name} and run the same command again: it goes on from here"
                told = f"{calls} calls, {tokens} tokens" + ("" if cost is None else f", cost {cost:.4g}")
                if untold := sum(spent.untold for spent in self.spent.values()):
                    told += f"; the tokens of {untold} calls are estimated, for the server did not tell them"
                raise BudgetSpent(f"the budget of {limit:g} {name} is spent ({told})", where=self.path, hint=hint)

    async def settle(self) -> None:
        """Wait for the calls under way, so that what was paid for is noted; then give up those that take too long."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=SETTLE_SECONDS)
            for call in late:
                call.cancel()

    def _compact(self) -> None:
        """Take the replies of finished items out of the file; their sums stay."""
        open_ = [
            line
            for line in self._journal
            if line.reply is not None and line.item not in self._closed and not self._finished(line.item)
        ]
        sums = dict(self.spent)
        for line in open_:
            sums[line.model] = sums[line.model].plus(_counted(line), times=-1)
        self._journal.close()
        write_records(self.path, [_Line(key="sums", sums=sums), *open_])
        self._closed.clear()
        self._bytes = 0
        self._journal = Journal(self.path, _Line, _line_key)

    def close(self) -> None:
        self._journal.close()

    def finish(self) -> None:
        """The stage is done: of the replies only the sums stay, and `usage.json` beside the file says them."""
        self._finished = lambda item: True
        self._journal = Journal(self.path, _Line, _line_key)
        self._compact()
        self.close()
        write_json(self.path.with_name("usage.json"), self.usage())

    def usage(self) -> dict[str, Any]:
        """Calls and tokens by model, how many of them are estimated, and the cost where every model has a price."""
        by_model = {name: self.spent[name].model_dump() for name in sorted(self.spent)}
        return {"models": by_model, "cost": cost_of(self.prices, self.spent)}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.settle()
        finally:
            self.close()


_CURRENT: ContextVar[tuple[Ledger, Scope] | None] = ContextVar("ledger", default=None)


class MeteredModel:
    """A `ChatModel` that notes its calls in the ledger of the work it is asked in; elsewhere it is just a model.

    `address` (a SPEC) names it there: two servers may have models of one name.
    """

    def __init__(self, model: ChatModel, address: str | None = None) -> None:
        self.name = model.name
        self.inner, self._address = model, model.name if address is None else address

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        current = _CURRENT.get()
        if current is None:
            return await self.inner.complete(messages, sampling, schema)
        ledger, item = current
        return await ledger.ask(item, self._address, self.inner, messages, sampling, schema)

    async def aclose(self) -> None:
        await self.inner.aclose()
