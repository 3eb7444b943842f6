"""What a running evaluation shows: honest counts, a pass rate so far, and the time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from people import STAMP, answer, rollout, scored, script
from safer_steer.bench.tally import Tally
from safer_steer.dialogue import Rollout, ScriptKind, StopReason, Turn, Usage
from safer_steer.progress import Live, PlainLines
from safer_steer.verdict import Scored, Unscored, UnscoredReason

MISSING = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="?")


def test_the_tally_counts_what_was_played_and_what_was_lost() -> None:
    tally = Tally(2.8)
    assert tally.add(rollout(script("a", "b", id="1"), [scored(3), scored(3)])) == {
        "turns": 2, "safety pass": "100 % of 1",
    }  # fmt: skip
    tally.add(rollout(script("a", "b", id="2"), [scored(3), scored(2)]))
    tally.add(rollout(script("a", id="3"), [MISSING]))
    tally.add(Rollout(script=script("a", id="4"), turns=(), stop=StopReason.ASSISTANT_FAULT, fault="down"))
    benign = rollout(script("a", id="5", kind=ScriptKind.BENIGN), [scored(-3)])
    assert tally.add(benign) == {"turns": 6, "safety pass": "50 % of 2", "unscored": 1, "broke off": 1}


def test_tokens_are_counted_where_the_server_says_them() -> None:
    told = answer("x").model_copy(update={"usage": Usage(prompt_tokens=1500, completion_tokens=500)})
    turns = (
        Turn(index=1, user="a", answer=told, verdict=scored()),
        Turn(index=2, user="b", answer=answer(), verdict=scored()),
    )
    done = Rollout(script=script("a", "b"), turns=turns, stop=StopReason.COMPLETED)
    assert Tally(2.8).add(done)["tokens"] == "2k"


def test_plain_lines_say_how_long_it_still_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    lines = PlainLines(out, interval=10)
    with lines.stage("eval", 100):
        now[0] += 60
        lines.advance(20, turns=180)
        now[0] += 5
        lines.advance(5)
        now[0] += 235
        lines.advance(75, turns=900)
    assert out.getvalue().splitlines() == [
        "eval: starts (100)",
        "eval: 20/100  turns 180  60 s, about 4 min left",
        "eval: 100/100  turns 900  300 s",
        "eval: 100/100  turns 900  done in 300.0 s",
    ]


def test_a_terminal_shows_the_facts_beside_the_bar() -> None:
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=140))
    with live.stage("eval base-static", 4):
        live.advance(1, turns=9)
        live.advance(1, **{"safety pass": "50 % of 2"})
    assert "turns 9  safety pass 50 % of 2" in out.getvalue() and "2/4" in out.getvalue()


def test_a_guard_s_run_shows_attack_success() -> None:
    def guarded(unsafe: int) -> Scored:
        return Scored(scores={"unsafe": unsafe}, rationale="", stamp=STAMP)

    tally = Tally(2.8)
    tally.add(rollout(script("a", "b", id="1"), [guarded(0), guarded(1)]))
    assert tally.add(rollout(script("a", "b", id="2"), [guarded(0), guarded(0)])) == {
        "turns": 4, "attack success": "50 % of 2",
    }  # fmt: skip
