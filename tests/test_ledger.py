"""The ledger: no answered call is made or paid for twice, and a budget ends the work cleanly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from safer_steer.actors import ledger as ledgers
from safer_steer.actors.chat import Completion, Message, Role, Sampling
from safer_steer.actors.ledger import Ledger, MeteredModel, Spent, call_key, cost_of
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


async def test_budgets_of_tokens_and_cost_stop_before_they_are_overrun(tmp_path: Path) -> None:
    prices = {"echo": Price(prompt=1e6, completion=2e6)}
    for name, budget in (("tokens", BudgetConfig(tokens=70)), ("cost", BudgetConfig(cost=100.0))):
        model = Echo()
        async with Ledger(tmp_path / name, budget, prices) as book:
            with pytest.raises(BudgetSpent, match=name):
                await ask(book, model, "one", *"abcdefgh")
            assert len(model.asked) == 3 and book.spent["echo"].tokens == 60
    assert cost_of(prices, book.spent) == 30 + 60 and cost_of({}, book.spent) is None


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
        whole = Spent(calls=61, prompt_tokens=600, completion_tokens=600, untold=1)
        assert book.spent == {"echo": whole}
        model = Echo()
        assert await ask(book, model, "open", "kept") == ["KEPT"] and model.asked == []
    book.finish()
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads((tmp_path / "usage.json").read_text()) == {"models": {"echo": whole.model_dump()}, "cost": None}


A = ImageRef(sha256="a" * 64, media_type="image/png", width=1, height=1)
texts = st.text(max_size=4)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_two_calls_have_one_key_only_if_they_ask_the_same(one: list[str], two: list[str]) -> None:
    def key(parts: list[str]) -> str:
        return call_key("m", [Message(role=Role.USER, text=part) for part in parts], GREEDY, None)

    assert (key(one) == key(two)) == (one == two)


def test_a_key_covers_images_sampling_and_schema() -> None:
    plain = said("a")
    shown = [Message(role=Role.USER, text="a", images=(A,))]
    keys = {
        call_key("m", plain, GREEDY, None), call_key("n", plain, GREEDY, None), call_key("m", shown, GREEDY, None),
        call_key("m", plain, Sampling(seed=1), None), call_key("m", plain, GREEDY, BudgetConfig),
    }  # fmt: skip
    assert len(keys) == 5
