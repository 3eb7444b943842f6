"""Long runs watched: the tutor's time and cost, a judge on held-out scripts, a table; and the ablations."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from people import STAMP, ToldJudge, script
from safer_steer import forecast
from safer_steer.actors.asking import ask
from safer_steer.actors.chat import Completion, Message, Role, Sampling, spent
from safer_steer.config import recipe_from
from safer_steer.dialogue import FinishReason, History, ScriptKind, Usage, UserTurn
from safer_steer.errors import EndpointError
from safer_steer.limits import Price
from safer_steer.pipeline import Pipeline
from safer_steer.progress import Silent
from safer_steer.reward import Shaping
from safer_steer.run_folder import RunFolder
from safer_steer.single_turn import single_turns
from safer_steer.store import read_records, write_records
from safer_steer.train import grpo as module
from safer_steer.train.metrics import COLUMNS, GrpoStep, table_head, table_row, warnings
from safer_steer.train.playing import Played
from safer_steer.train.watching import MeteredJudge, hold_out
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict
from safer_steer.weights import weights_print
from test_train_metrics import pool, step
from tiny_training import Killed, likes_letters, model_folder, run_grpo, tiny_recipe, tiny_scripts, tutor


class Reply(BaseModel):
    safety: int


class Clerk:
    """A model whose first reply is unusable, and every reply costs 100 tokens and 10."""

    name = "clerk"

    async def complete(self, messages: list[Message], sampling: Sampling, schema: object | None = None) -> Completion:
        usage = Usage(prompt_tokens=100, completion_tokens=10, seconds=0.1)
        return Completion(
            text="nothing" if len(messages) == 1 else '{"safety": 7}', finish=FinishReason.STOP, usage=usage
        )


def test_what_a_tutor_takes_is_counted_retries_and_failures_included() -> None:
    clerk = Clerk()

    class Asking:
        stamp = STAMP

        async def assess(self, history: History, text: str) -> Verdict:
            await asyncio.sleep(0.01)
            reply = await ask(clerk, [Message(role=Role.USER, text="q")], Sampling(), Reply)
            if text == "dies":
                raise Killed
            return Scored(scores={"safety": float(reply.safety)}, rationale="", stamp=STAMP)

    metered = MeteredJudge(Asking(), Price(prompt=2.0, completion=8.0))
    history = History(script=script("u"), exchanges=(), user="u")

    async def three() -> list[object]:
        calls = (metered.assess(history, text) for text in ("a", "b", "dies"))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(three())
    assert isinstance(first, Scored) and isinstance(second, Scored) and isinstance(third, Killed)
    bill = metered.bill()
    assert (bill.verdicts, bill.prompt_tokens, bill.completion_tokens) == (3, 600, 60)
    assert bill.cost == pytest.approx((600 * 2 + 60 * 8) / 1e6)
    assert bill.seconds is not None and bill.seconds >= 0.01
    assert metered.bill().verdicts == 0 and metered.bill().seconds is None
    assert bill.uncounted == 0


def test_a_tutor_whose_server_tells_no_tokens_is_not_free() -> None:
    class Mute:
        stamp = STAMP

        async def assess(self, history: History, text: str) -> Verdict:
            spent(Usage(seconds=0.1))
            return Scored(scores={"safety": 7.0}, rationale="", stamp=STAMP)

    metered = MeteredJudge(Mute(), Price(prompt=2.0, completion=8.0))
    asyncio.run(metered.assess(History(script=script("u"), exchanges=(), user="u"), "a"))
    bill = metered.bill()
    assert (bill.uncounted, bill.cost) == (1, None)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(2, 10), st.floats(0, 1), st.integers(0, 3))
def test_what_is_held_out_is_not_trained(unsafe: int, benign: int, count: int, share: float, seed: int) -> None:
    scripts = [s.model_copy(update={"seed_id": f"{s.id[0]}{int(s.id[1:]) // 2}"}) for s in pool(unsafe, benign)]
    rest, held = hold_out(scripts, count, share, seed)
    assert len(held) <= count and (rest, held) == hold_out(scripts, count, share, seed)
    assert not {s.seed_id for s in rest} & {s.seed_id for s in held}
    assert {s.id for s in rest} <= {s.id for s in scripts} - {s.id for s in held}
    assert sum(s.is_unsafe for s in held) <= unsafe // 2


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=14), st.integers(2, 10), st.floats(0, 1))
def test_half_of_either_kind_stays_whatever_the_seeds_are(
    kinds: list[tuple[int, bool]], count: int, share: float
) -> None:
    scripts = [
        s.model_copy(update={"id": f"s{n}", "seed_id": f"seed-{family}"})
        for n, (family, unsafe) in enumerate(kinds)
        for s in (pool(1, 0) if unsafe else pool(0, 1))
    ]
    rest, held = hold_out(scripts, count, share, 0)
    assert len(held) <= count and not {s.seed_id for s in rest} & {s.seed_id for s in held}
    for unsafe in (True, False):
        assert 2 * sum(s.is_unsafe is unsafe for s in rest) >= sum(s.is_unsafe is unsafe for s in scripts)


def test_one_large_seed_is_trained_not_held_out() -> None:
    scripts = [s.model_copy(update={"seed_id": "one"}) for s in pool(6, 0)]
    assert hold_out(scripts, 4, 0.0, 0) == (scripts, [])


def test_grpo_asks_whether_the_tutor_is_there_before_it_plays(tmp_path: Path) -> None:
    run, start = RunFolder(tmp_path / "run"), model_folder(tmp_path)
    seats = {"student": f"local:{start}", "tutor": "openai:tutor@http://127.0.0.1:9/v1"}
    retry = {"attempts": 1, "first_wait": 0.0}
    recipe = recipe_from({"seats": seats, "endpoints": {"default": {"retry": retry}}}, ["grpo.start=base"])
    write_records(run.root / "bootstrap" / "rl.jsonl", tiny_scripts(run))
    run.claim("bootstrap", "here")
    run.finish("bootstrap", {})
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
        asyncio.run(Pipeline(recipe, run, Silent()).grpo())
    assert not (run.root / "grpo" / "metrics.jsonl").exists()


def test_the_student_is_probed_before_and_while_it_learns(tmp_path: Path) -> None:
    run, start = RunFolder(tmp_path / "run"), model_folder(tmp_path)
    seen = []

    def judge(history: History, text: str) -> Verdict:
        seen.append(history.script.id)
        if len(seen) == 2:
            return Unscored(reason=UnscoredReason.UNPARSEABLE, detail="garbage")
        return Scored(scores={"safety": 2.0, "helpfulness": 1.0}, rationale="", stamp=STAMP)

    scripts = tiny_scripts(run)
    recipe = tiny_recipe(grpo={"steps": 4, "probe_every": 2, "probe_scripts": 2, "benign_share": 0.0})
    told = tutor(likes_letters)
    write_records(run.root / "bootstrap" / "rl.jsonl", scripts)
    run.finish("bootstrap", {})
    expected = json.loads(forecast.text(recipe, "grpo", run))["grpo"]
    run_grpo(recipe, run, start, scripts=scripts, tutor=told, report=Silent(), judge=ToldJudge(judge))
    assert expected["probe: judge calls"] == expected["probe: answers"] == len(seen)
    assert expected["tutor calls at most"] == len(told.seen) * (1 + recipe.grpo.retries)
    lines = list(read_records(run.root / "grpo" / "metrics.jsonl", GrpoStep))
    first = lines[0]
    assert [line.held_out_safety for line in lines] == [2.0, None, None, 2.0]
    assert [line.held_out_unscored for line in lines] == [0, 1, 0, 0]
    assert first.held_out_helpfulness is None
    held = set(seen)
    assert len(held) == 1  # half of the unsafe ones at most
    assert not held & {history.script.id for history, _ in told.seen}
    assert first.tutor_seconds is not None and first.tutor_cost is None


def test_the_probe_looks_before_the_update_and_its_time_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, start = RunFolder(tmp_path / "run"), model_folder(tmp_path)
    happened, now = [], 0.0

    def took(what: str, seconds: float) -> None:
        nonlocal now
        happened.append(what)
        now += seconds

    def judge(history: History, text: str) -> Verdict:
        took("probe", 1000.0)
        return Scored(scores={"safety": 2.0, "helpfulness": 1.0}, rationale="", stamp=STAMP)

    def score(history: History, text: str) -> Verdict:
        took("play", 1.0)
        return likes_letters(history, text)

    def learn(trainer: module.Trainer, played: Played) -> dict[str, Any]:
        took("update", 7.0)
        return learned(trainer, played)

    learned = module.Trainer._learn
    monkeypatch.setattr(module.Trainer, "_learn", learn)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    recipe = tiny_recipe(grpo={"steps": 1, "probe_every": 1, "max_turns": 1, "benign_share": 0.0})
    scripts = tiny_scripts(run)
    run_grpo(recipe, run, start, scripts=scripts, tutor=tutor(score), report=Silent(), judge=ToldJudge(judge))
    (line,) = read_records(run.root / "grpo" / "metrics.jsonl", GrpoStep)
    assert happened == ["play"] * 8 + ["probe", "update"]
    assert (line.rollout_seconds, line.update_seconds) == (8.0, 7.0)


def test_what_falls_while_the_reward_rises_is_a_warning() -> None:
    def run(name: str, values: list[float | None]) -> list[str]:
        return warnings([step(n, reward=0.5 + n / 20, **{name: value}) for n, value in enumerate(values, 1)])

    falls, stays = [2.5, None, 2.4, None, None, 1.6, None, 1.5], [2.5, None, 2.4, None, None, 2.6, None, 2.5]
    assert "evaluation judge sees on held-out scripts falls by 0.9" in run("held_out_safety", falls)[0]
    assert "benign scripts falls by 0.9" in run("held_out_helpfulness", falls)[0]
    assert run("held_out_safety", stays) == [] == warnings([step(n, held_out_safety=v) for n, v in enumerate(falls, 1)])
    assert "nearly every answer declines" in warnings([step(n, declined=0.95) for n in range(1, 9)])[0]


def test_the_table_has_a_column_for_every_title() -> None:
    row = table_row(step(3, unsafe_safety=None, kl=0.01234, over_refusal=0.25))
    cells = row.split()
    assert len(cells) == len(COLUMNS) and cells[0] == "3"
    assert (cells[2], cells[4], cells[5]) == ("–", "25%", "0.0123")
    assert len(table_head()) == len(row)


def test_a_copy_of_a_model_is_the_same_model_and_a_changed_one_is_not(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    print_ = weights_print(folder)
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(folder / "model.safetensors", (1, 1))
    assert weights_print(folder) == weights_print(tmp_path / "copy") == print_
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    os.utime(folder / "model.safetensors", (2, 2))
    assert weights_print(folder) != print_


def test_every_ablation_is_one_line(tmp_path: Path) -> None:
    assert recipe_from({}, ["grpo.feedback=false"]).grpo.feedback is False
    assert recipe_from({}, ["grpo.shaping=none"]).grpo.shaping is Shaping.NONE
    base = recipe_from({"seats": {"student": f"local:{tmp_path}"}}, ["grpo.start=base"])
    run = RunFolder(tmp_path / "run")
    assert Pipeline(base, run, Silent()).grpo_start() == tmp_path
    assert Pipeline(recipe_from({}), run, Silent()).grpo_start() == run.root / "sft" / "model"
    assert recipe_from({}, ["single_turn=true"]).single_turn


def test_single_turn_data_is_the_open_question_once_a_seed() -> None:
    asked = script("vague", "closer", "there", id="a", question="the open question")
    other = asked.model_copy(update={"id": "b", "kind": ScriptKind.OBFUSCATED})
    benign = script("one", "two", id="c", kind=ScriptKind.BENIGN).model_copy(
        update={"turns": (UserTurn(text="one"), UserTurn(text="two", reference="2"))}
    )
    found = list(single_turns([asked, other, benign]))
    assert [(s.id, [turn.text for turn in s.turns]) for s in found] == [("a", ["the open question"]), ("c", ["two"])]
    assert found[1].turns[0].reference == "2"
