"""Replies that were paid for: kept whole, found again by what was asked, never mistaken for another draw."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safer_steer.actors.chat import Completion, Message, Role, Sampling
from safer_steer.actors.remembering import Memory, RememberingModel
from safer_steer.actors.replies import Reply, ReplyFile, request_digest
from safer_steer.actors.specs import Seating
from safer_steer.actors.verdict_parsing import Reply as Schema
from safer_steer.config import recipe_from
from safer_steer.dialogue import FinishReason, ImageRef, Usage
from safer_steer.errors import EndpointError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.limits import Price
from safer_steer.scope import SCOPE, Scope

WHO = "openai:m@http://h/v1"
GREEDY, SAMPLED = Sampling(), Sampling(temperature=0.7, seed=1)
files = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def said(text: str) -> Completion:
    usage = Usage(prompt_tokens=10, completion_tokens=3, seconds=0.5)
    return Completion(text=text, finish=FinishReason.STOP, usage=usage)


def reply(key: int, text: str = "fine") -> Reply:
    return Reply(key=f"{key:032x}", role="judge", model=WHO, completion=said(text))


class Counting:
    """Every reply is another one: the number of the request."""

    name = "m"

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.asked, self.fails = 0, fails

    async def complete(self, *_: object) -> Completion:
        self.asked += 1
        if self.asked in self.fails:
            raise EndpointError("went away", where="there")
        return said(f"reply {self.asked}")

    async def aclose(self) -> None:
        return


def hello(text: str = "hello") -> list[Message]:
    return [Message(role=Role.USER, text=text)]


@contextmanager
def dialogue(key: str) -> Iterator[None]:
    token = SCOPE.set(Scope(key))
    yield
    SCOPE.reset(token)


async def text_of(model: RememberingModel, sampling: Sampling = GREEDY, text: str = "hello") -> str:
    return (await model.complete(hello(text), sampling)).text


@files
@given(st.lists(st.text(max_size=30), max_size=6), st.integers(0, 10**6))
def test_a_file_cut_anywhere_keeps_every_whole_reply_and_goes_on(tmp_path: Path, texts: list[str], at: int) -> None:
    path = tmp_path / "replies.jsonl"
    path.unlink(missing_ok=True)
    file = ReplyFile(path)
    for number, text in enumerate(texts):
        file.put(reply(number, text))
    file.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: at % (len(whole) + 1)])
    kept = path.read_bytes().count(b"\n")
    file = ReplyFile(path)
    assert len(file) == kept
    for number, text in enumerate(texts):
        found = file.get(f"{number:032x}")
        assert (None if found is None else found.completion.text) == (text if number < kept else None)
        if found is None:
            file.put(reply(number, text))
    file.close()
    assert path.read_bytes() == whole


def test_two_openings_of_one_file_lose_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = ReplyFile(tmp_path / "r"), ReplyFile(tmp_path / "r")
    for number in range(20):
        (one if number % 2 else two).put(reply(number, f"text {number}"))
    for number in range(20):
        own = one if number % 2 else two
        assert own.get(f"{number:032x}") == reply(number, f"text {number}")
    one.close()
    two.close()
    third = ReplyFile(tmp_path / "r")
    assert [r.completion.text for r in third] == [f"text {number}" for number in range(20)]
    third.close()


def test_a_line_that_is_no_reply_is_named(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(reply(1).to_json() + "\n" + '{"key": "x"}\n')
    with pytest.raises(StorageError, match=r"no reply at byte \d+ .*delete it"):
        ReplyFile(tmp_path / "r")


def test_a_reply_that_does_not_fit_leaves_no_half_line(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_remembering import ReplyFile, StorageError, reply
file = ReplyFile(Path({str(tmp_path / "r")!r}))
for number in range(100):
    try:
        file.put(reply(number))
    except StorageError as error:
        assert "free some space" in str(error), error
        assert file.get(reply(number).key) is None
        print(number)
        break
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file = ReplyFile(tmp_path / "r")
    assert len(file) == int(done.stdout) > 2
    assert (tmp_path / "r").read_bytes().endswith(b"\n")
    file.close()


class One(Schema):
    a: int


class Two(Schema):
    a: str


def test_what_the_same_request_is() -> None:
    def image(digit: str, name: str) -> ImageRef:
        return ImageRef(sha256=digit * 64, media_type="image/png", width=1, height=1, name=name)

    def pictured(ref: ImageRef) -> list[Message]:
        return [Message(role=Role.USER, text="hello", images=(ref,))]

    base = request_digest(WHO, hello(), GREEDY, None)
    assert request_digest(WHO, hello(), Sampling(seed=5), None) == base
    different = [
        request_digest(WHO + "x", hello(), GREEDY, None),
        request_digest(WHO, hello("hello "), GREEDY, None),
        request_digest(WHO, [Message(role=Role.SYSTEM, text="hello")], GREEDY, None),
        request_digest(WHO, hello() + hello(), GREEDY, None),
        request_digest(WHO, hello(), Sampling(max_tokens=9), None),
        request_digest(WHO, hello(), SAMPLED, None),
        request_digest(WHO, hello(), Sampling(temperature=0.7, seed=2), None),
        request_digest(WHO, hello(), GREEDY, One),
        request_digest(WHO, hello(), GREEDY, Two),
        request_digest(WHO, pictured(image("1", "a")), GREEDY, None),
        request_digest(WHO, pictured(image("2", "a")), GREEDY, None),
    ]
    assert len({base, *different}) == 12
    assert request_digest(WHO, pictured(image("1", "b")), GREEDY, None) == different[-2]


@pytest.mark.anyio
async def test_a_ledger_answers_for_its_dialogue_and_counts_every_call_once(tmp_path: Path) -> None:
    model, path = Counting(), tmp_path / "calls.jsonl"
    for _ in range(2):
        memory = Memory()
        memory.open_ledger(path)
        seat = RememberingModel(model, WHO, "judge", memory)
        with dialogue("d1#0"):
            assert [await text_of(seat) for _ in range(3)] == ["reply 1", "reply 2", "reply 3"]
            assert await text_of(seat, SAMPLED) == "reply 4"
        with dialogue("d2#0"):
            assert await text_of(seat) == "reply 5"
        bill = memory.spent({WHO: Price(prompt=2.0, completion=10.0, currency="EUR")})
        memory.close()
    assert model.asked == 5
    assert [line.model_dump() for line in bill] == [
        {
            "role": "judge", "model": WHO, "calls": 5, "cached": 0, "prompt_tokens": 50, "completion_tokens": 15,
            "uncounted": 0, "cost": pytest.approx((50 * 2 + 15 * 10) / 1e6), "currency": "EUR", "without": (),
        }
    ]  # fmt: skip


@pytest.mark.anyio
async def test_the_bill_keeps_what_calls_were_made_without_also_when_it_resumes(tmp_path: Path) -> None:
    memory = Memory()
    memory.open_ledger(tmp_path / "calls.jsonl")
    for number, without in enumerate((("temperature",), (), ("temperature", "response_format"))):
        reply = said("x").model_copy(update={"without": without})
        memory.keep("judge", WHO, reply, f"{number:032x}", None)
    memory.keep("student", WHO, said("y"), f"{9:032x}", None)
    expected = [("judge", ("response_format", "temperature")), ("student", ())]
    assert [(line.role, line.without) for line in memory.spent({})] == expected
    memory.open_ledger(tmp_path / "calls.jsonl")
    assert [(line.role, line.without) for line in memory.spent({})] == expected
    memory.close()


@pytest.mark.anyio
async def test_a_call_that_failed_is_made_again_and_not_counted(tmp_path: Path) -> None:
    model, memory = Counting(fails=frozenset({1})), Memory()
    memory.open_ledger(tmp_path / "calls.jsonl")
    seat = RememberingModel(model, WHO, "student", memory)
    with dialogue("d"), pytest.raises(EndpointError):
        await text_of(seat)
    with dialogue("d"):
        assert await text_of(seat) == "reply 2"
    assert [(line.calls, line.cost) for line in memory.spent({})] == [(1, None)]
    memory.close()


async def replay(folder: Path, model: Counting, sampling: Sampling, *, run: str, **settings: Any) -> list[str]:
    """Two equal requests of one dialogue, in a run of its own."""
    cached = settings.pop("cached", frozenset({"judge"}))
    memory = Memory(cache=ReplyFile(folder / "replies.jsonl"), cached=cached, **settings)
    memory.open_ledger(folder / run / "calls.jsonl")
    seat = RememberingModel(model, WHO, "judge", memory)
    with dialogue("d1#0"):
        found = [await text_of(seat, sampling) for _ in range(2)]
    memory.close()
    return found


@pytest.mark.anyio
async def test_the_cache_serves_greedy_requests_of_later_runs_and_keeps_repeats_apart(tmp_path: Path) -> None:
    model = Counting()
    assert await replay(tmp_path, model, GREEDY, run="a") == ["reply 1", "reply 2"]
    assert await replay(tmp_path, model, GREEDY, run="b") == ["reply 1", "reply 2"]
    assert await replay(tmp_path, model, GREEDY, run="c", cached=frozenset({"student"})) == ["reply 3", "reply 4"]


@pytest.mark.anyio
async def test_samples_are_cached_only_under_a_nonce(tmp_path: Path) -> None:
    model = Counting()
    assert await replay(tmp_path, model, SAMPLED, run="a") == ["reply 1", "reply 2"]
    assert await replay(tmp_path, model, SAMPLED, run="b") == ["reply 3", "reply 4"]
    assert await replay(tmp_path, model, SAMPLED, run="c", nonce="x") == ["reply 5", "reply 6"]
    assert await replay(tmp_path, model, SAMPLED, run="d", nonce="x") == ["reply 5", "reply 6"]
    assert await replay(tmp_path, model, SAMPLED, run="e", nonce="y") == ["reply 7", "reply 8"]


@pytest.mark.anyio
async def test_another_dialogue_with_the_same_words_is_another_sample(tmp_path: Path) -> None:
    model = Counting()
    memory = Memory(cache=ReplyFile(tmp_path / "r"), cached=frozenset({"judge"}), nonce="x")
    seat = RememberingModel(model, WHO, "judge", memory)
    found = []
    for key in ("d1#0", "d1#1", "d2#0"):
        with dialogue(key):
            found += [await text_of(seat, SAMPLED), await text_of(seat, GREEDY)]
    assert found == ["reply 1", "reply 2", "reply 3", "reply 2", "reply 4", "reply 2"]
    assert [(line.calls, line.cached) for line in memory.spent({})] == [(4, 2)]
    memory.close()


@pytest.mark.anyio
async def test_dialogues_side_by_side_keep_their_own_count(tmp_path: Path) -> None:
    memory = Memory()
    memory.open_ledger(tmp_path / "calls.jsonl")
    seat = RememberingModel(Counting(), WHO, "judge", memory)

    async def one(key: str) -> list[str]:
        SCOPE.set(Scope(key))
        return [await text_of(seat) for _ in range(2)]

    first = await asyncio.gather(*(asyncio.create_task(one(f"d{number}")) for number in range(5)))
    assert {text for texts in first for text in texts} == {f"reply {number}" for number in range(1, 11)}
    assert await asyncio.gather(*(asyncio.create_task(one(f"d{number}")) for number in range(5))) == first
    memory.close()


@pytest.mark.anyio
async def test_the_recipe_says_who_is_cached_and_what_it_costs(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/v1"
    recipe = recipe_from(
        {
            "seats": {"judge": f"openai:j@{address}"},
            "cache": {"folder": str(tmp_path / "cache"), "judge": True},
            "endpoints": {address: {"prices": {"j": {"prompt": 1, "completion": 2}}, "concurrency": 9}},
        }
    )
    async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
        seats.judge()
        assert (tmp_path / "cache" / "replies.jsonl").exists()
        seats.memory.keep("judge", f"openai:j@{address}", said("x"), "0" * 32, None)
        assert [(line.role, line.cost) for line in seats.spent()] == [("judge", pytest.approx(16e-6))]
        assert (seats.room(f"openai:j@{address}"), seats.room("scripted")) == (18, None)
