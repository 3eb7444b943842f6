"""The ledger: no answered call is made or paid for twice, and a budget ends the work cleanly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from safer_steer.actors import ledger as ledgers
from safer_steer.actors.chat import Completion, Message, Role, Sampling
from safer_steer.actors.ledger import Ledger, MeteredModel
from safer_steer.actors.replies import request_digest
from safer_steer.actors.spending import Counted, Spent, cost_of, count, known_cost, told
from safer_steer.config import BudgetConfig
from safer_steer.dialogue import FinishReason, ImageRef, Usage
from safer_steer.errors import BudgetSpent, EndpointError
from safer_steer.limits import Price

pytestmark = pytest.mark.anyio
NO_LIMIT = BudgetConfig()
GREEDY = Sampling()


class Echo:
    """Repeats what it is told, counts, and can wait or fail."""

    name = "echo"

    def __init__(self, *, wait: float = 0.0, fails: bool = False, tokens: int | None = 10) -> None:
        self.asked: list[str] = []
        self.wait, self.fails, self.tokens = wait, fails, tokens

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        self.asked.append(messages[-1].text)
        await asyncio.sleep(self.wait)
        if self.fails:
            raise EndpointError("gone")
        usage = Usage(prompt_tokens=self.tokens, completion_tokens=self.tokens)
        return Completion(text=messages[-1].text.upper(), finish=FinishReason.STOP, usage=usage)

    async def aclose(self) -> None:
        return


def said(text: str) -> list[Message]:
    return [Message(role=Role.USER, text=text)]


async def ask(book: Ledger, model: Echo, item: str, *texts: str) -> list[str]:
    with book.item(item):
        return [(await MeteredModel(model).complete(said(text), GREEDY)).text for text in texts]


async def test_an_item_that_was_cut_short_is_asked_only_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with Ledger(path, NO_LIMIT) as book:
        assert await ask(book, Echo(), "one", "a", "b") == ["A", "B"]
        assert await ask(book, Echo(), "two", "a") == ["A"]
        book.close_item("two")
    model = Echo()
    async with Ledger(path, NO_LIMIT, finished=lambda item: item == "two") as book:
        assert await ask(book, model, "one", "a", "b", "c") == ["A", "B", "C"]
        assert model.asked == ["c"] and book.spent["echo"].calls == 4
        await ask(book, model, "two", "a")
        assert model.asked == ["c", "a"], "a finished item's replies are forgotten"


class Draws(Echo):
    """Says something else every time it is asked."""

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        reply = await super().complete(messages, sampling, schema)
        return reply.model_copy(update={"text": f"{reply.text}{len(self.asked)}"})


async def test_equal_requests_of_one_item_are_two_calls_with_two_replies(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with Ledger(path, NO_LIMIT) as book:
        assert await ask(book, Draws(), "one", "a", "a", "b") == ["A1", "A2", "B3"]
        assert await ask(book, Draws(), "two", "a") == ["A1"]
        paid = book.spent
    model = Draws()
    async with Ledger(path, NO_LIMIT) as book:
        assert book.spent == paid and paid["echo"].calls == 4
        assert await ask(book, model, "one", "a", "a", "b", "a") == ["A1", "A2", "B3", "A1"]
        assert model.asked == ["a"]
    first = path.read_text().splitlines()[0]
    digest = request_digest("echo", said("a"), GREEDY, None)[:32]
    assert json.loads(first)["key"] == f"one/{digest}", "as ledgers were before: they stay readable"


async def test_outside_of_any_item_nothing_is_noted(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "calls.jsonl", NO_LIMIT) as book:
        assert (await MeteredModel(Echo()).complete(said("a"), GREEDY)).text == "A"
        assert book.spent == {}


async def test_a_caller_that_is_cancelled_leaves_a_paid_reply_behind(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with Ledger(path, NO_LIMIT) as book:
        task = asyncio.create_task(ask(book, Echo(wait=0.05), "one", "a"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with Ledger(path, NO_LIMIT) as book:
        model = Echo()
        assert await ask(book, model, "one", "a") == ["A"] and model.asked == []


async def test_a_fault_is_not_on_record(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with Ledger(path, NO_LIMIT) as book:
        with pytest.raises(EndpointError):
            await ask(book, Echo(fails=True), "one", "a")
        assert book.spent == {} and await ask(book, Echo(), "one", "a") == ["A"]


async def test_a_budget_of_calls_is_exact_even_when_many_ask_at_once(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    model = Echo(wait=0.01)
    async with Ledger(path, BudgetConfig(calls=5)) as book:
        done = await asyncio.gather(*(ask(book, model, f"i{n}", f"t{n}") for n in range(9)), return_exceptions=True)
    assert len(model.asked) == 5 and sum(isinstance(one, BudgetSpent) for one in done) == 4
    async with Ledger(path, BudgetConfig(calls=5)) as book:
        with pytest.raises(
            BudgetSpent, match=r"budget of 5 calls is spent \(5 calls, 100 tokens\).*raise budget.calls"
        ):
            await ask(book, model, "new", "x")
    async with Ledger(path, BudgetConfig(calls=6)) as book:
        assert await ask(book, model, "new", "x") == ["X"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_call_counts_once_at_the_moment_it_ends(tmp_path: Path, fails: bool) -> None:
    ended = asyncio.Event()

    class Rings(Echo):
        async def complete(self, *args: Any, **more: Any) -> Completion:
            try:
                return await super().complete(*args, **more)
            finally:
                ended.set()  # who waits for it goes on before the event loop knows that this call is over

    async def follow(book: Ledger) -> list[str]:
        await ended.wait()
        return await ask(book, Echo(), "two", "a")

    async with Ledger(tmp_path / "calls.jsonl", BudgetConfig(calls=1 if fails else 2)) as book:
        first, then = await asyncio.gather(
            ask(book, Rings(fails=fails), "one", "x"), follow(book), return_exceptions=True
        )
        assert isinstance(first, EndpointError) if fails else first == ["X"]
        assert then == ["A"]
        with pytest.raises(BudgetSpent):
            await ask(book, Echo(), "two", "b")


async def test_budgets_of_tokens_and_cost_stop_before_they_are_overrun(tmp_path: Path) -> None:
    prices = {"echo": Price(prompt=1e6, completion=2e6)}
    for name, budget in (("tokens", BudgetConfig(tokens=70)), ("cost", BudgetConfig(cost=100.0))):
        model = Echo()
        async with Ledger(tmp_path / name, budget, prices) as book:
            with pytest.raises(BudgetSpent, match=name):
                await ask(book, model, "one", *"abcdefgh")
            assert len(model.asked) == 3 and book.spent["echo"].tokens == 60
    assert cost_of(prices, book.spent) == 30 + 60 and cost_of({}, book.spent) is None


async def test_a_budget_binds_though_the_server_tells_no_tokens(tmp_path: Path) -> None:
    """Each call is estimated at 25 tokens either way, for a hundred characters; what was estimated is told."""
    prices = {"echo": Price(prompt=1e6, completion=2e6)}
    for name, budget in (("tokens", BudgetConfig(tokens=160)), ("cost", BudgetConfig(cost=230.0))):
        model, path = Echo(tokens=None), tmp_path / name
        for _ in range(2):  # a second sitting reads what the first one spent
            async with Ledger(path, budget, prices) as book:
                with pytest.raises(BudgetSpent, match=rf"budget of .* {name}.*tokens of 3 calls are estimated"):
                    await ask(book, model, "one", *(letter * 100 for letter in "abcdefgh"))
        assert len(model.asked) == 3
        assert book.spent["echo"] == Spent(calls=3, prompt_tokens=75, completion_tokens=75, untold=3, estimated=150)


def test_what_a_server_does_not_tell_is_estimated_or_counted_never_nothing() -> None:
    def reply(prompt: int | None, written: int | None) -> Completion:
        usage = Usage(prompt_tokens=prompt, completion_tokens=written)
        return Completion(text="x" * 40, finish=FinishReason.STOP, usage=usage)

    picture = ImageRef(sha256="a" * 64, media_type="image/png", width=280, height=280)
    asked = [Message(role=Role.USER, text="y" * 80, images=(picture,))]
    assert count(asked, reply(7, 3)) == Counted(prompt=7, completion=3)
    assert count(asked, reply(None, 3)) == Counted(prompt=120, completion=3, estimated=120)
    assert count(asked, reply(0, None)) == Counted(prompt=0, completion=10, estimated=10)
    silent = told([Usage(), Usage(prompt_tokens=5)])
    assert silent == Spent(calls=2, untold=2)
    price = Price(prompt=1e6, completion=1e6)
    assert known_cost(price, silent) is None and known_cost(price, Spent()) == 0
    assert known_cost(price, told([Usage(prompt_tokens=2, completion_tokens=1)], silent)) == 3


def test_costs_in_two_currencies_have_no_sum() -> None:
    prices = {"a": Price(prompt=1, completion=1), "b": Price(prompt=1, completion=1, currency="EUR")}
    assert cost_of(prices, {"a": Spent(calls=1), "b": Spent(calls=1)}) is None
    assert cost_of(prices, {"a": Spent(calls=1, prompt_tokens=10**6)}) == 1


async def test_the_file_does_not_grow_with_finished_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "COMPACT_AFTER", 2000)
    path = tmp_path / "calls.jsonl"
    async with Ledger(path, NO_LIMIT) as book:
        await ask(book, Echo(), "open", "kept")
        for number in range(60):
            await ask(book, Echo(tokens=None if number == 0 else 10), f"i{number}", f"t{number}")
            book.close_item(f"i{number}")
            assert path.stat().st_size < 4000
    async with Ledger(path, NO_LIMIT, finished=lambda item: item != "open") as book:
        whole = Spent(calls=61, prompt_tokens=601, completion_tokens=601, untold=1, estimated=2)
        assert book.spent == {"echo": whole}
        model = Echo()
        assert await ask(book, model, "open", "kept") == ["KEPT"] and model.asked == []
    book.finish()
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads((tmp_path / "usage.json").read_text()) == {"models": {"echo": whole.model_dump()}, "cost": None}


texts = st.text(max_size=4)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_two_calls_have_one_key_only_if_they_ask_the_same(one: list[str], two: list[str]) -> None:
    def key(parts: list[str]) -> str:
        return request_digest("m", [Message(role=Role.USER, text=part) for part in parts], GREEDY, None)

    assert (key(one) == key(two)) == (one == two)
