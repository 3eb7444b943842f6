"""Stored transcripts under another judge: nobody else is asked, nothing of the first evaluation changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import call
from faulty import Faulty, failing, score_of
from people import ToldJudge, answer, rollout, scored, script
from safer_steer.converse import judge_again
from safer_steer.dialogue import AnswerState, Rollout, StopReason
from safer_steer.errors import ActorError
from safer_steer.verdict import Scored, Unscored, UnscoredReason
from test_faults import Capture, arguments, rows, suite, summary


@pytest.mark.anyio
async def test_the_judge_sees_what_was_said_and_only_what_is_asked_for_is_judged_again() -> None:
    away = Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="away")
    kept = scored(1, 1)
    before = rollout(script("u1", "u2", "u3"), [kept, away, away], ["one", "two", "three"])
    judge = ToldJudge(lambda history, text: scored(3, 2))
    after = await judge_again(before, judge, lambda verdict: isinstance(verdict, Unscored))
    assert [turn.verdict for turn in after.turns] == [kept, scored(3, 2), scored(3, 2)]
    seen = {
        history.index: (history.user, [e.answer.text for e in history.exchanges], text) for history, text in judge.seen
    }
    assert seen == {2: ("u2", ["one"], "two"), 3: ("u3", ["one", "two"], "three")}
    assert not any(hasattr(exchange, "verdict") for history, _ in judge.seen for exchange in history.exchanges)
    assert after.model_copy(update={"turns": before.turns}) == before


@pytest.mark.anyio
async def test_a_broken_dialogue_stays_broken_and_a_failing_judge_is_a_state() -> None:
    whole = rollout(script("u1", "u2"), [scored(), scored()])
    empty = whole.turns[1].model_copy(update={"answer": answer("", AnswerState.EMPTY)})
    broken = Rollout(
        script=whole.script, turns=(whole.turns[0], empty), stop=StopReason.ASSISTANT_FAULT, fault="went away"
    )

    def judge(*_: object) -> Scored:
        raise ActorError("judge away")

    after = await judge_again(broken, ToldJudge(judge))
    assert (after.stop, after.fault) == (StopReason.ASSISTANT_FAULT, "went away")
    assert [turn.verdict.reason for turn in after.turns if isinstance(turn.verdict, Unscored)] == [
        "judge_unreachable", "empty_answer",
    ]  # fmt: skip


def again(server: Faulty, source: Path, out: Path, *more: str) -> list[str | Path]:
    return ["rejudge", "--run", source, "--judge", f"openai:judge2@{server.url}", "--out", out, *more]


def test_another_judge_reads_the_same_transcripts(tmp_path: Path, capsys: Capture) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with failing(Faulty(never="turn 1 of 2?")) as server:
        asked_for = suite(tmp_path, 5, 3)
        assert call(capsys, *arguments(server, asked_for, first, "--set", "eval.max_unscored_share=0.5"))[0] == 0
        before = {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()}
        server.asked.clear()
        code, _, err = call(capsys, *again(server, first, second, "--set", "eval.max_unscored_share=0.5"))
        assert code == 0, err
        assert server.asked == {"judge2": 13}
        assert call(capsys, *again(server, first, second, "--set", "eval.max_unscored_share=0.5"))[0] == 0
        assert server.asked == {"judge2": 13}
    assert {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()} == before
    assert summary(second)["counts"] == summary(first)["counts"] == {
        "dialogues": 5, "turns": 13, "scored": 13, "unscored": 0, "failed": 1,
    }  # fmt: skip
    of = summary(second)["of"]
    assert isinstance(of, dict) and of["judge"]["judge"] == "judge2" and of["model"].startswith("openai:student@")
    pairs = list(zip(rows(first), rows(second), strict=True))
    for one, two in pairs:
        assert (one["dialogue_id"], one["turn"], one["answer"]) == (two["dialogue_id"], two["turn"], two["answer"])
        if two["status"] == "scored":
            assert two["safety"] == score_of(str(two["answer"])[::-1])["safety"]
    assert any(one["safety"] != two["safety"] for one, two in pairs)
    assert (second / "report.html").exists() and list((second / "images").iterdir())


def test_a_judge_away_exits_with_five_and_is_asked_again_later(tmp_path: Path, capsys: Capture) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with failing(Faulty()) as server:
        assert call(capsys, *arguments(server, suite(tmp_path, 3, 2), first))[0] == 0
        server.judge_down = True
        told = again(server, first, second, "--set", "endpoints.default.retry.attempts=1")
        assert call(capsys, *told)[0] == 5
        server.judge_down = False
        server.asked.clear()
        assert call(capsys, *told)[0] == 0
        assert server.asked == {"judge2": 6}
    assert summary(second)["counts"] == {"dialogues": 3, "turns": 6, "scored": 6, "unscored": 0, "failed": 0}


def test_what_is_no_evaluation_is_refused_before_anything_is_asked(tmp_path: Path, capsys: Capture) -> None:
    with failing(Faulty()) as server:
        code, _, err = call(capsys, *again(server, tmp_path / "nothing", tmp_path / "out"))
        assert code == 1 and "holds no finished evaluation" in err and not (tmp_path / "out").exists()
        assert call(capsys, *arguments(server, suite(tmp_path, 2, 2), tmp_path / "one"))[0] == 0
        code, _, err = call(capsys, *again(server, tmp_path / "one", tmp_path / "one"))
        assert code == 1 and "choose another --out" in err
        assert call(capsys, *arguments(server, suite(tmp_path, 3, 2), tmp_path / "other"))[0] == 0
        assert call(capsys, *again(server, tmp_path / "one", tmp_path / "out"))[0] == 0
        code, _, err = call(capsys, *again(server, tmp_path / "other", tmp_path / "out"))
        assert code == 1 and "begun with another set of transcripts (" in err
        assert server.asked["judge2"] == 4
