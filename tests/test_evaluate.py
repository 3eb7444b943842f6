"""Evaluation in one process: what is played, what is played again, and what comes of faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from people import ToldAssistant, ToldJudge, answer, rollout, scored, script
from safer_steer.bench.books import Books, Fault, outcomes, without_words
from safer_steer.bench.evaluate import Evaluation, Session, Summary, run_eval, summarise, unscored_share
from safer_steer.config import EvalConfig
from safer_steer.dialogue import Answer, AnswerState, History, Rollout, Script, ScriptKind, StopReason, UserTurn
from safer_steer.errors import ActorError, ContextOverflow, StageError, StorageError
from safer_steer.progress import Silent
from safer_steer.seats import ScriptUser
from safer_steer.store import Journal, write_records
from safer_steer.verdict import Unscored, UnscoredReason, Verdict

Say = Callable[[History], Answer | str]


def good(history: History, text: str) -> Verdict:
    return scored(3, 3)


def evaluation(
    folder: Path, scripts: list[Script], say: Say, judge: Callable[[History, str], Verdict] = good
) -> Evaluation:
    folder.mkdir(exist_ok=True)
    model, judging = ToldAssistant(say), ToldJudge(judge)
    return Evaluation(model, judging, ScriptUser(), scripts, "told", "static", folder, "student")


async def evaluate(of: Evaluation) -> Summary:
    return await run_eval(of, EvalConfig(), Session(4, Silent()))


def scripts(count: int, turns: int = 2) -> list[Script]:
    return [script(*(f"u{t}" for t in range(turns)), id=f"s{number:02}") for number in range(count)]


def fails_for(*ids: str, at: int = 1, error: type[ActorError] = ActorError) -> Say:
    def say(history: History) -> str:
        if history.script.id in ids and history.index >= at:
            raise error("went away", where="there")
        return "fine"

    return say


@pytest.mark.anyio
async def test_a_dialogue_that_broke_off_is_counted_and_only_it_is_played_again(tmp_path: Path) -> None:
    everyone = scripts(5)
    found = await evaluate(evaluation(tmp_path, everyone, fails_for("s01", "s03", at=2)))
    assert found.overall.counts.model_dump() == {"dialogues": 5, "turns": 8, "scored": 8, "unscored": 0, "failed": 2}
    assert found.overall.safety_pass.model_dump(include={"passed", "scored", "unscored"}) == {
        "passed": 3, "scored": 3, "unscored": 2,
    }  # fmt: skip
    assert found.endings == {"assistant_fault": 2, "completed": 3}
    assert unscored_share(found) == pytest.approx(2 / 10)
    again = evaluation(tmp_path, everyone, fails_for("s03", at=1))
    found = await evaluate(again)
    assert {history.script.id for history in again.model.seen} == {"s01", "s03"}
    assert (found.overall.counts.failed, found.overall.counts.turns) == (1, 8)
    found = await evaluate(evaluation(tmp_path, everyone, fails_for()))
    assert (found.overall.counts.failed, found.overall.safety_pass.rate) == (0, 1.0)
    assert [r.key for r in outcomes(tmp_path)] == [f"s{i:02}#0" for i in range(5)]


@pytest.mark.anyio
async def test_every_turn_that_was_never_reached_is_missing(tmp_path: Path) -> None:
    """One of two dialogues of ten turns breaks off after the first: nine of the twenty turns were lost, not one."""
    found = await evaluate(evaluation(tmp_path, scripts(2, turns=10), fails_for("s01", at=2)))
    assert (found.overall.counts.scored, found.lost_turns) == (11, 9)
    assert unscored_share(found) == pytest.approx(9 / 20)


@pytest.mark.anyio
async def test_a_fault_is_a_row_of_its_own_and_what_was_said_before_it_is_kept(tmp_path: Path) -> None:
    await evaluate(evaluation(tmp_path, scripts(3), fails_for("s01", at=2, error=ContextOverflow)))
    rows = [row for row in pq.read_table(tmp_path / "turns.parquet").to_pylist() if row["dialogue_id"] == "s01"]
    assert [(row["turn"], row["status"], row["answer"], row["safety"]) for row in rows] == [
        (1, "scored", "fine", 3), (2, "failed", None, None),
    ]  # fmt: skip
    assert rows[1]["reason"] == "there: went away"


@pytest.mark.anyio
async def test_a_model_that_never_answers_is_given_up_after_a_few_dialogues(tmp_path: Path) -> None:
    everyone = scripts(100)
    down = evaluation(tmp_path, everyone, fails_for(*(s.id for s in everyone)))
    with pytest.raises(StageError, match=r"the first 8 dialogues all broke off: there: went away"):
        await evaluate(down)
    assert len(down.model.seen) <= 12
    found = await evaluate(evaluation(tmp_path, everyone, fails_for()))
    assert found.overall.counts.model_dump()["failed"] == 0


@pytest.mark.anyio
async def test_answers_that_cannot_be_judged_and_judges_that_do_not_are_unscored(tmp_path: Path) -> None:
    def say(history: History) -> Answer:
        empty = history.script.id == "s00" and history.index == 1
        return answer("", AnswerState.EMPTY) if empty else answer("fine")

    def judge(history: History, text: str) -> Verdict:
        if history.script.id == "s01":
            raise ActorError("judge away")
        return scored(3, 3)

    found = await evaluate(evaluation(tmp_path, scripts(3), say, judge))
    assert found.overall.counts.model_dump() == {"dialogues": 3, "turns": 6, "scored": 3, "unscored": 3, "failed": 0}
    assert found.unscored_reasons == {"empty_answer": 1, "judge_unreachable": 2}
    assert (found.overall.safety_pass.scored, found.overall.safety_pass.unscored) == (1, 2)
    assert unscored_share(found) == pytest.approx(0.5)


def test_the_latest_fault_stands_until_the_dialogue_is_finished(tmp_path: Path) -> None:
    one, two = scripts(2)
    broken = [Rollout(script=s, turns=(), stop=StopReason.USER_FAULT, fault=f) for s in (one, two) for f in ("a", "b")]
    with (
        Journal(tmp_path / "rollouts.jsonl", Rollout, lambda r: r.key) as done,
        Journal(tmp_path / "faults.jsonl", Fault, lambda f: f.key) as faults,
    ):
        for attempt, fault in enumerate(broken):
            faults.append(Fault(attempt=attempt, rollout=fault))
        done.append(rollout(two, [scored(), scored()]))
    assert [(r.script.id, r.fault) for r in outcomes(tmp_path)] == [("s00", "b"), ("s01", None)]


def test_benign_dialogues_stay_out_of_the_unsafe_figures(tmp_path: Path) -> None:
    kinds = ("red_team", "obfuscated", "benign")
    made = [
        rollout(script("u", id=kind, kind=ScriptKind(kind)), [scored(-3 if kind != "benign" else 3, 1)])
        for kind in kinds
    ]
    found = summarise(made, evaluation(tmp_path, [], fails_for()), EvalConfig(), 1.0)
    assert (found.unsafe.safety.mean, found.benign.safety.mean, found.overall.counts.dialogues) == (-3, 3, 3)
    assert (found.unsafe.safety_pass.rate, found.benign.safety_pass.rate) == (0, 1)
    assert set(found.by_kind) == set(kinds)
    assert found.survival[0].failures == 2
    assert found.contract()["pass_rates"]["safety"] == 0.0, "the harmless one does not raise the rate"
    alone = summarise(made[2:], evaluation(tmp_path, [], fails_for()), EvalConfig(), 1.0)
    assert alone.contract()["pass_rates"]["safety"] == 1.0


def test_nothing_scored_is_no_number(tmp_path: Path) -> None:
    missing = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="?")
    found = summarise([rollout(script("u"), [missing])], evaluation(tmp_path, [], fails_for()), EvalConfig(), 1.0)
    assert found.contract()["pass_rates"] == {"safety": None, "helpfulness": None}
    assert (found.survival, unscored_share(found)) == ((), 1.0)


def test_the_figures_need_no_words(tmp_path: Path) -> None:
    judged = [rollout(script("u", "v", id=str(i), kind=ScriptKind.BENIGN if i % 3 else ScriptKind.RED_TEAM), [
        scored(i % 7 - 3, i % 4, flags=("over_refusal",) if i % 5 == 0 else ()),
        Unscored(reason=UnscoredReason.UNPARSEABLE, detail="?") if i % 4 == 0 else scored(3, 2),
    ]) for i in range(30)]  # fmt: skip
    of = evaluation(tmp_path, [], fails_for())
    verdicts: dict[str, Verdict] = {}
    bare = [without_words(rollout, verdicts) for rollout in judged]
    assert len(verdicts) < 60
    assert summarise(bare, of, EvalConfig(), 1.0) == summarise(judged, of, EvalConfig(), 1.0)
    assert not any(turn.answer.text or turn.user for rollout in bare for turn in rollout.turns)


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", "é#1", '","sample":7,"turns":['])
def test_a_dialogue_s_place_is_found_whatever_its_name_and_its_words(tmp_path: Path, name: str) -> None:
    tricky = UserTurn(text='","sample":7,"turns":[ and {"script":{"id":"other",')
    of = script("u").model_copy(update={"id": name, "turns": (tricky,)})
    told = [rollout(of, [scored()]).model_copy(update={"sample": sample}) for sample in (0, 12)]
    write_records(tmp_path / "rollouts.jsonl", told)
    shuffled = b'{"sample": 3, ' + told[0].model_copy(update={"sample": 3}).to_json().encode()[1:].replace(
        b',"sample":3,', b","
    )  # written by another hand: the keys in another order
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(shuffled + b"\n")
    write_records(tmp_path / "faults.jsonl", [])
    assert sorted((r.script.id, r.sample) for r in outcomes(tmp_path)) == [(name, 0), (name, 3), (name, 12)]


def test_a_line_that_is_no_dialogue_is_named(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        books.enter(rollout(script("u"), [scored()]))
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"script": 5}\n')
    with pytest.raises(StorageError, match=r"rollouts.jsonl:2: not a Rollout: script"):
        list(outcomes(tmp_path))
