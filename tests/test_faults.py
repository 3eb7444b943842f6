"""An evaluation under faults, as its users run it: nothing lost, nothing twice, nothing paid again, nothing made up."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from command import call, entry, start, write_suite
from faulty import Faulty, answer_to, failing, score_of

Capture = pytest.CaptureFixture[str]
QUICK = [
    "--set", "endpoints.default.timeout=2", "--set", "endpoints.default.retry.first_wait=0.01",
    "--set", "endpoints.default.retry.longest_wait=0.02", "--set", "endpoints.default.concurrency=16",
]  # fmt: skip


def suite(folder: Path, dialogues: int, turns: int) -> Path:
    told = [
        entry(f"d{number:03}", [f"turn {turn} of {number}?" for turn in range(turns)]) for number in range(dialogues)
    ]
    return write_suite(folder, *told)


def arguments(server: Faulty, suite: Path, out: Path, *more: str) -> list[str | Path]:
    seats = ["--model", f"openai:student@{server.url}", "--judge", f"openai:judge@{server.url}"]
    return ["eval", *seats, "--suite", suite, "--out", out, *QUICK, *more]


def rows(out: Path) -> list[dict[str, object]]:
    return pq.read_table(out / "turns.parquet").to_pylist()


def summary(out: Path) -> dict[str, object]:
    found = json.loads((out / "summary.json").read_text())
    assert isinstance(found, dict)
    return found


def calls(out: Path) -> list[dict[str, object]]:
    """The replies of whole lines so far."""
    path = out / "calls.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def assert_true(out: Path, *, lost: frozenset[str] = frozenset(), unscored: str = "\x00") -> None:
    """Every row is what the server's student and judge really say of that turn."""
    for row in rows(out):
        if row["status"] == "failed":
            assert row["dialogue_id"] in lost
            continue
        assert row["answer"] == answer_to(str(row["user"]))
        grade = score_of(str(row["answer"]))
        if unscored in str(row["user"]):
            assert (row["status"], row["safety"], row["reason"]) == ("unscored", None, "unparseable")
        else:
            assert (row["status"], row["safety"], row["helpfulness"], row["reason"]) == (
                "scored", grade["safety"], grade["helpfulness"], grade["rationale"],
            )  # fmt: skip


def test_five_percent_errors_two_percent_nonsense_hangs_and_resets(tmp_path: Path, capsys: Capture) -> None:
    rates = {"error": 0.025, "busy": 0.025, "cut": 0.01, "unusable": 0.02, "hang": 0.005, "reset": 0.005}
    out, asked_for = tmp_path / "out", suite(tmp_path, 90, 4)
    server = Faulty(rates, never="turn 2 of 7?", unjudgeable="turn 1 of 3", seed=3)
    with failing(server):
        code, _, err = call(capsys, *arguments(server, asked_for, out, "--set", "eval.max_unscored_share=0.02"))
        assert code == 3, err
        assert "unparseable 11, as '" in err and "assistant fault 1, as 'http" in err and "tries 2 turns again" in err
        assert min(server.met[fault] for fault in rates) > 0, server.met
        assert "HTTP 503" in err and "timeout" in err and "connection" in err
        # Dialogue 7 broke off at its third turn; turn 1 of 3 and of 30 to 39 gets prose both times.
        unjudged = 11
        assert summary(out)["counts"] == {
            "dialogues": 90, "turns": 90 * 4 - 2, "scored": 90 * 4 - 2 - unjudged, "unscored": unjudged, "failed": 1,
        }  # fmt: skip
        assert summary(out)["unscored_reasons"] == {"unparseable": unjudged}
        assert_true(out, lost=frozenset({"d007"}), unscored="turn 1 of 3")
        assert Counter(row["dialogue_id"] for row in rows(out)) == {
            f"d{number:03}": 3 if number == 7 else 4 for number in range(90)
        }
        assert set(server.answered.values()) == {1}  # a re-ask is another request: it quotes what was wrong
        bill = {line["role"]: line for line in summary(out)["bill"]}  # type: ignore[attr-defined]
        assert bill["student"]["calls"] == sum(n for (model, _), n in server.answered.items() if model == "student")
        assert bill["judge"]["calls"] == sum(n for (model, _), n in server.answered.items() if model == "judge")
        assert bill["judge"]["prompt_tokens"] == 20 * bill["judge"]["calls"]

        # Again, with the server well and a laxer limit: only the dialogue that broke off goes on, where it broke off.
        server.rates, server.never = {}, "\x00"
        before = server.asked.copy()
        code, _, err = call(capsys, *arguments(server, asked_for, out, "--set", "eval.max_unscored_share=0.05"))
        assert code == 0, err
        assert server.asked - before == {"student": 2, "judge": 2}
    assert summary(out)["counts"]["failed"] == 0  # type: ignore[index]
    assert_true(out, unscored="turn 1 of 3")


def test_what_a_judge_that_was_away_left_out_is_judged_later_and_nobody_else_is_asked(
    tmp_path: Path, capsys: Capture
) -> None:
    out, asked_for = tmp_path / "out", suite(tmp_path, 6, 3)
    with failing(Faulty()) as server:
        server.judge_down = True
        told = arguments(server, asked_for, out, "--set", "endpoints.default.retry.attempts=1")
        code, _, err = call(capsys, *told)
        assert code == 5 and "100.0%" in err and "the same command tries these again" in err
        assert "Why: judge unreachable 18, as 'http://" in err and "HTTP 503: out of order'" in err
        assert summary(out)["unscored_reasons"] == {"judge_unreachable": 18}
        assert {row["status"] for row in rows(out)} == {"unscored"}
        assert server.asked == {"student": 18, "judge": 18}
        code, _, err = call(capsys, *told)  # still away
        assert code == 5 and server.asked == {"student": 18, "judge": 36}
        server.judge_down = False
        code, _, err = call(capsys, *told)
        assert code == 0, err
        assert server.asked == {"student": 18, "judge": 54}
        assert call(capsys, *told)[0] == 0
        assert server.asked == {"student": 18, "judge": 54}
    assert summary(out)["counts"] == {"dialogues": 6, "turns": 18, "scored": 18, "unscored": 0, "failed": 0}
    assert_true(out)


def test_a_model_that_answers_nothing_is_told_as_such_every_time(tmp_path: Path, capsys: Capture) -> None:
    with failing(Faulty(never="turn")) as server:
        told = arguments(server, suite(tmp_path, 9, 2), tmp_path / "out")
        for _ in range(2):
            code, _, err = call(capsys, *told)
            assert code == 1 and "all broke off: http" in err and "HTTP 400" in err
        server.never = "turn 1"
        assert call(capsys, *told)[0] == 1
        server.never = "turn 1 of 2"
        code, _, err = call(capsys, *told)
        assert code == 5 and "assistant fault 1, as 'http" in err


def test_a_finished_evaluation_asks_no_server_not_even_whether_it_is_there(tmp_path: Path, capsys: Capture) -> None:
    with failing(Faulty()) as server:
        told = arguments(server, suite(tmp_path, 2, 2), tmp_path / "out")
        again = [
            "rejudge",
            "--run",
            tmp_path / "out",
            "--judge",
            f"openai:judge2@{server.url}",
            "--out",
            tmp_path / "r",
        ]
        assert call(capsys, *told)[0] == call(capsys, *again)[0] == 0
    assert call(capsys, *told)[0] == call(capsys, *again)[0] == 0  # the server is gone


def test_a_run_that_spent_its_retries_stops_and_pays_for_no_answer_again(tmp_path: Path, capsys: Capture) -> None:
    out, asked_for = tmp_path / "out", suite(tmp_path, 8, 3)
    with failing(Faulty(judge_down=True)) as server:
        told = arguments(server, asked_for, out, "--set", "endpoints.default.retry.budget=6")
        code, _, err = call(capsys, *told, "--set", "endpoints.default.retry.budget_share=0")
        assert code == 1 and "no more are allowed; the last: HTTP 503" in err and "Traceback" not in err
        assert err.count("error: ") == 1 and "run the same command again" in err
        assert 0 < server.answered.total() - len(calls(out)) + 1 <= 16  # what was on its way when it stopped
        server.judge_down = False
        code, _, err = call(capsys, *told)
        assert code == 0, err
        assert server.answered.total() - len(calls(out)) <= 16
    assert_true(out)


def test_only_one_process_works_in_a_folder_and_a_dead_one_leaves_it(tmp_path: Path, capsys: Capture) -> None:
    out, asked_for = tmp_path / "out", suite(tmp_path, 3, 2)
    with failing(Faulty(delay=0.3)) as server:
        told = arguments(server, asked_for, out)
        process = start(*told)
        deadline = time.monotonic() + 120
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.02)
        code, _, err = call(capsys, *told)
        assert code == 1 and f"another process ({process.pid}) is at work" in err and "choose another --out" in err
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.delay = 0.0
        code, _, err = call(capsys, *told)
        assert code == 0, err
    assert_true(out)


def kill_and_go_on(folder: Path, capsys: Capture, *, kills: int, dialogues: int, turns: int, seed: int) -> None:
    """Kill -9 at random moments, so many times, then finish; and count every reply that was ever sent."""
    out, asked_for = folder / "out", suite(folder, dialogues, turns)
    drawn, slots, needed = random.Random(seed), 4, 2 * dialogues * turns
    with failing(Faulty(delay=0.03)) as server:
        told = arguments(server, asked_for, out, "--set", f"endpoints.default.concurrency={slots}")
        for _ in range(kills):
            process = start(*told)
            before = server.answered.total()
            aim = before + drawn.randrange(1, max(2, needed // (kills + 2)))
            deadline = time.monotonic() + 120
            while server.answered.total() < aim and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(drawn.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            kept = calls(out)
            assert len({line["key"] for line in kept}) == len(kept)
            for name in ("calls.jsonl", "rollouts.jsonl"):  # the worst a kill can leave
                with (out / name).open("ab") as file:
                    file.write(b'{"key": "0123", "ro')
        code, _, err = call(capsys, *told)
        assert code == 0, err
        sent, kept = server.answered.total(), calls(out)
    assert len({line["key"] for line in kept}) == len(kept) == needed  # nothing lost, nothing twice
    assert sent - needed <= kills * slots  # what was on its way at the moment of a kill, and nothing else
    counts = {"dialogues": dialogues, "turns": dialogues * turns, "scored": dialogues * turns}
    assert summary(out)["counts"] == {**counts, "unscored": 0, "failed": 0}
    assert Counter(row["dialogue_id"] for row in rows(out)) == {f"d{i:03}": turns for i in range(dialogues)}
    assert_true(out)


def test_killed_twice_at_random_moments(tmp_path: Path, capsys: Capture) -> None:
    kill_and_go_on(tmp_path, capsys, kills=2, dialogues=6, turns=3, seed=1)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(tmp_path: Path, capsys: Capture) -> None:
    kill_and_go_on(tmp_path, capsys, kills=20, dialogues=30, turns=5, seed=2)
