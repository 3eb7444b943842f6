"""A chat model that keeps what it is told: the ledger of a run, the answer cache across runs, and the bill.

The *ledger* (`calls.jsonl` in an evaluation's folder) is always on: whatever happens to the process, a reply that
arrived is never asked for again by the same run. (Stages I and II have a `ledger.Ledger` in its place, which forgets
what finished work was told and keeps a budget.) The *cache* is opt-in per role and shared between runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from safer_steer.actors.chat import ChatModel, Completion, Message, Sampling
from safer_steer.actors.replies import Reply, ReplyFile, request_digest
from safer_steer.actors.spending import Spent, known_cost
from safer_steer.dialogue import Record
from safer_steer.limits import Price
from safer_steer.scope import SCOPE, Scope

_NOWHERE = Scope("")


class Spending(Record):
    """What one role spent on one model. `uncounted` calls came without usage: nothing else here has them in it.

    `cost` is `None` without a price, and where no call at all was counted. `without` names settings that some calls
    were made without, because the model does not take them: such a judge may not have been greedy, or not have been
    held to its form.
    """

    role: str
    model: str
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None
    currency: str | None
    without: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tally:
    """Plain numbers that count up, for every reply passes here; `spent` is what they come to."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    untold: int = 0
    cached: int = 0
    without: frozenset[str] = frozenset()

    def add(self, reply: Completion) -> None:
        prompt, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
        self.calls += 1
        if prompt is None or written is None:
            self.untold += 1
        else:
            self.prompt_tokens += prompt
            self.completion_tokens += written
        if reply.without:
            self.without = self.without.union(reply.without)

    @property
    def spent(self) -> Spent:
        return Spent(
            calls=self.calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            untold=self.untold,
        )


class Memory:
    """What the models of one run share: ledger, cache, and the count of every call that was answered.

    `cached` names the roles that use `cache`. `nonce` is what makes caching samples (temperature > 0) safe: the same
    nonce gives the same draws again, another one gives new draws, and without one samples are never cached.
    """

    def __init__(
        self, *, cache: ReplyFile | None = None, cached: frozenset[str] = frozenset(), nonce: str | None = None
    ) -> None:
        self._cache, self._cached, self._nonce = cache, cached, nonce
        self._ledger: ReplyFile | None = None
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def open_ledger(self, path: Path) -> None:
        """Keep every reply from now on in `path`, and take from it what is there. Raises `StorageError`."""
        self.close_ledger()
        self._tallies.clear()
        self._ledger = ReplyFile(path)
        for reply in self._ledger:
            self._tally(reply.role, reply.model).add(reply.completion)

    def recall(self, role: str, model: str, ledger_key: str, cache_key: str | None) -> Completion | None:
        """The reply to a request that was answered before, in this run or (for roles that cache) in another."""
        found = None if self._ledger is None else self._ledger.get(ledger_key)
        if found is None and cache_key is not None and self._cache is not None:
            found = self._cache.get(cache_key)
            if found is not None:
                tally = self._tally(role, model)
                tally.cached += 1
                tally.without = tally.without.union(found.completion.without)
        return None if found is None else found.completion

    def keep(self, role: str, model: str, completion: Completion, ledger_key: str, cache_key: str | None) -> None:
        """Count a reply that just came, and keep it."""
        self._tally(role, model).add(completion)
        for file, key in ((self._ledger, ledger_key), (self._cache, cache_key)):
            if file is not None and key is not None:
                file.put(Reply(key=key, role=role, model=model, completion=completion))

    def keys(self, role: str, digest: str, greedy: bool) -> tuple[str, str | None]:
        """The request's key in the ledger, and in the cache unless it must not be cached."""
        found = SCOPE.get()
        scope = _NOWHERE if found is None else found
        nth = 0 if found is None else scope.occurrence(digest)
        ledger = _key("ledger", scope.key, digest, nth)
        if role not in self._cached or not (greedy or self._nonce is not None):
            return ledger, None
        return ledger, _key("cache", digest, nth, *(() if greedy else (self._nonce, scope.key)))

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self._ledger is not None or self._cache is not None

    def _tally(self, role: str, model: str) -> _Tally:
        tally = self._tallies.get((role, model))
        if tally is None:
            tally = self._tallies[role, model] = _Tally()
        return tally

    def spent(self, prices: Mapping[str, Price]) -> tuple[Spending, ...]:
        """What was spent so far, by role and model; `prices` by model as `RememberingModel` names it."""
        return tuple(_spending(role, model, t, prices.get(model)) for (role, model), t in sorted(self._tallies.items()))

    def close_ledger(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    def close(self) -> None:
        self.close_ledger()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()


class RememberingModel:
    """`model` in one role, its replies counted and kept in `memory`. `address` names it in the bill and the files."""

    def __init__(self, model: ChatModel, address: str, role: str, memory: Memory) -> None:
        self.name, self.inner = model.name, model
        self._address, self._role, self._memory = address, role, memory

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """As the model's own; a request answered before is not made again."""
        memory, who = self._memory, (self._role, self._address)
        if not memory.is_on:
            completion = await self.inner.complete(messages, sampling, schema)
            memory.keep(*who, completion, "", None)
            return completion
        digest = request_digest(self._address, messages, sampling, schema)
        keys = memory.keys(self._role, digest, greedy=sampling.temperature == 0)
        known = memory.recall(*who, *keys)
        if known is not None:
            return known
        completion = await self.inner.complete(messages, sampling, schema)
        memory.keep(*who, completion, *keys)
        return completion

    async def aclose(self) -> None:
        await self.inner.aclose()


def _key(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:32]


def _spending(role: str, model: str, tally: _Tally, price: Price | None) -> Spending:
    spent = tally.spent
    return Spending(
        role=role,
        model=model,
        calls=spent.calls,
        cached=tally.cached,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        uncounted=spent.untold,
        cost=known_cost(price, spent),
        currency=None if price is None else price.currency,
        without=tuple(sorted(tally.without)),
    )
