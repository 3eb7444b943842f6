"""What a server is asked to bear: the recipe's limits, the pace, the slots, and the budget of retries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from people import ToldJudge, scored, script
from safer_steer.actors.assistant import ChatAssistant
from safer_steer.actors.chat import Completion, Sampling
from safer_steer.actors.endpoint.pace import FIRST_GUESS, MINUTE, Pace, Slots
from safer_steer.config import Recipe, load_recipe, recipe_from
from safer_steer.converse import converse
from safer_steer.dialogue import FinishReason
from safer_steer.errors import ConfigError, EndpointError, StageError
from safer_steer.limits import Limits, Price, RetryPolicy
from safer_steer.scope import SCOPE, URGENCY
from safer_steer.seats import Cast, ScriptUser
from test_endpoint import HELLO, broken, busy, ok, serving

HOST = "https://api.example.org/v1"


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace(requests: int | None, tokens: int | None, time: Time) -> Pace:
    return Pace(requests, tokens, clock=time, sleep=time.sleep)


async def starts(of: Pace, time: Time, count: int, used: int | None = None) -> list[float]:
    found = []
    for _ in range(count):
        booked = await of.turn()
        found.append(time.now)
        of.settle(booked, used)
    return found


@given(st.integers(1, 400), st.integers(1, 120))
def test_no_minute_holds_more_requests_than_allowed(limit: int, count: int) -> None:
    time = Time()
    found = asyncio.run(starts(pace(limit, None, time), time, count))
    for first in found:
        assert sum(first <= start < first + MINUTE - 1e-6 for start in found) <= limit


@given(st.integers(100, 100_000), st.lists(st.integers(1, 3000), min_size=1, max_size=80))
def test_tokens_are_spaced_by_what_replies_really_used(limit: int, sizes: list[int]) -> None:
    time = Time()
    of = pace(None, limit, time)

    async def play() -> float:
        for used in sizes:
            of.settle(await of.turn(), used)
        await of.turn()
        return time.now

    assert asyncio.run(play()) == pytest.approx(sum(sizes) * MINUTE / limit)


@pytest.mark.anyio
async def test_before_the_first_reply_a_guess_stands_for_its_tokens() -> None:
    time = Time()
    of = pace(None, 60_000, time)
    assert await starts(of, time, 3, used=None) == [0.0, FIRST_GUESS / 1000, 2 * FIRST_GUESS / 1000]


@pytest.mark.anyio
async def test_without_limits_nobody_waits_and_held_everybody_does() -> None:
    time = Time()
    of = pace(None, None, time)
    assert await starts(of, time, 3) == [0.0, 0.0, 0.0]
    of.hold(7.0)
    of.hold(2.0)
    assert await starts(of, time, 2) == [7.0, 7.0]


@pytest.mark.anyio
async def test_a_free_slot_goes_to_the_most_urgent_and_survives_cancellation() -> None:
    slots, order = Slots(1), []

    async def work(name: str, urgency: int) -> None:
        await slots.take(urgency)
        order.append(name)
        await asyncio.sleep(0.001)
        slots.give()

    holder = asyncio.create_task(work("holder", 0))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(work(*who)) for who in (("judge", 1), ("short", -1), ("long", -9), ("also", -1))]
    gone = asyncio.create_task(work("gone", -99))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(holder, *waiting)
    assert order == ["holder", "long", "short", "also", "judge"]
    async with asyncio.timeout(1):
        await work("later", 0)


@pytest.mark.anyio
@given(st.lists(st.tuples(st.integers(-3, 1), st.booleans()), max_size=25), st.integers(1, 4))
async def test_no_slot_is_lost_whoever_is_cancelled(who: list[tuple[int, bool]], limit: int) -> None:
    slots, now, most = Slots(limit), 0, 0

    async def work(urgency: int) -> None:
        nonlocal now, most
        await slots.take(urgency)
        now, most = now + 1, max(most, now + 1)
        try:
            await asyncio.sleep(0)
        finally:
            now -= 1
            slots.give()

    tasks = [(asyncio.create_task(work(urgency)), cancelled) for urgency, cancelled in who]
    for step, (task, cancelled) in enumerate(tasks):
        if cancelled:
            task.cancel()
        if step % 3 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
    assert now == 0
    async with asyncio.timeout(1):
        await asyncio.gather(*(work(0) for _ in range(limit)))
    assert most <= limit


@pytest.mark.anyio
async def test_a_paced_server_gets_its_requests_apart() -> None:
    moments: list[float] = []

    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        moments.append(asyncio.get_running_loop().time())
        return await ok(request, body, number)

    async with serving(handler, limits=Limits(requests_per_minute=1200)) as (_, model):
        await asyncio.gather(*(model.complete(HELLO, Sampling()) for _ in range(5)))
    assert moments[-1] - moments[0] >= 4 * MINUTE / 1200 - 0.02


@pytest.mark.anyio
async def test_after_three_refusals_in_a_row_everybody_waits() -> None:
    loop, refused_at, asked_at = asyncio.get_running_loop(), [], []

    async def handler(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        if number <= 3:
            refused_at.append(loop.time())
            return web.Response(status=429, headers={"Retry-After": "0.4"})
        asked_at.append(loop.time())
        return await ok(request, body, number)

    async with serving(handler) as (_, model):
        first = [asyncio.create_task(model.complete(HELLO, Sampling())) for _ in range(3)]
        while len(refused_at) < 3:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await model.complete(HELLO, Sampling())
        await asyncio.gather(*first)
    assert min(asked_at) - refused_at[-1] >= 0.35


@pytest.mark.anyio
async def test_a_run_whose_retries_are_spent_stops_and_says_so() -> None:
    retry = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.001, budget=3, budget_share=0.5)
    async with serving(broken, retry=retry) as (server, model):
        with pytest.raises(EndpointError, match="after 3 attempts"):
            await model.complete(HELLO, Sampling())
        with pytest.raises(StageError, match=r"3 retries for 0 answers, no more are allowed; the last: HTTP 500"):
            await model.complete(HELLO, Sampling())
        assert dict(model._endpoint.retried) == {"HTTP 500": 3}
    assert len(server.bodies) == 3 + 2


@pytest.mark.anyio
async def test_every_answer_earns_the_budget_a_part() -> None:
    async def every_second(request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        return await (busy if number % 2 else ok)(request, body, number)

    retry = RetryPolicy(attempts=3, first_wait=0.0, longest_wait=0.0, budget=1, budget_share=1.0)
    async with serving(every_second, retry=retry) as (_, model):
        for _ in range(6):
            assert (await model.complete(HELLO, Sampling())).text == "fine"
        assert (model._endpoint.answered, dict(model._endpoint.retried)) == (6, {"HTTP 429": 6})


class Noting:
    """A model that notes the urgency and the scope it is asked under."""

    name = "noting"

    def __init__(self) -> None:
        self.noted: list[tuple[int, str]] = []

    def note(self) -> None:
        scope = SCOPE.get()
        assert scope is not None
        self.noted.append((URGENCY.get(), scope.key))

    async def complete(self, *_: object) -> Completion:
        self.note()
        return Completion(text="a", finish=FinishReason.STOP)


@pytest.mark.anyio
async def test_the_longest_way_to_go_is_the_most_urgent_and_verdicts_nobody_waits_for_the_least() -> None:
    answers, verdicts = Noting(), Noting()

    def judge(*_: object) -> Any:
        verdicts.note()
        return scored()

    def cast(**more: Any) -> Cast:
        return Cast(ScriptUser(), ChatAssistant(answers, Sampling()), ToldJudge(judge), **more)  # type: ignore[arg-type]

    await converse(script("a", "b", "c", id="x"), cast(), sample=2)
    assert answers.noted == [(-3, "x#2"), (-2, "x#2"), (-1, "x#2")]
    assert verdicts.noted == [(1, "x#2")] * 3
    verdicts.noted.clear()
    await converse(script("a", "b", id="y"), cast(stop_when=lambda verdict: False))
    assert verdicts.noted == [(0, "y#0")] * 2


def test_a_servers_own_entry_is_laid_over_the_default() -> None:
    recipe = recipe_from(
        {
            "endpoints": {
                "default": {"concurrency": 8, "retry": {"attempts": 2, "budget": 7}},
                f"{HOST}/": {
                    "requests_per_minute": 500,
                    "retry": {"attempts": 9},
                    "prices": {"m": {"prompt": 0.05, "completion": 0}},
                },
            }
        }
    )
    own = recipe.limits(HOST)
    assert (own.concurrency, own.requests_per_minute, own.timeout) == (8, 500, Limits().timeout)
    assert (own.retry.attempts, own.retry.budget, own.retry.first_wait) == (9, 7, RetryPolicy().first_wait)
    assert own.prices == {"m": Price(prompt=0.05, completion=0, currency="USD")}
    assert recipe.limits("https://elsewhere/v1").concurrency == 8
    assert Recipe().limits(HOST) == Limits()
    assert load_recipe(None, ["endpoints.default.concurrency=3"]).limits(HOST).concurrency == 3


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        ({"default": {"concurency": 8}}, "unknown key 'endpoints.default.concurency'"),
        ({HOST: {"retry": {"tries": 1}}}, f"unknown key 'endpoints.{HOST}.retry.tries'"),
        ({"api.example.org": {}}, "neither 'default' nor a base URL"),
        ({HOST: {}, HOST + "/": {}}, "stands twice"),
        ({HOST: {"concurrency": 0}}, "greater than 0"),
        ({HOST: {"prices": {"m": {"prompt": 1}}}}, "prices.m.completion"),
        ({HOST: {"prices": {"m": {"prompt": -1, "completion": 1}}}}, "prices.m.prompt"),
    ],
)
def test_a_wrong_limit_is_named(endpoints: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_from({"endpoints": endpoints})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("cache", "says"),
    [({"judge": True}, "'folder' names no place"), ({"folder": "x", "jugde": True}, "unknown key 'cache.jugde'")],
)
def test_a_wrong_cache_is_named(cache: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_from({"cache": cache})
    assert says in str(caught.value)
