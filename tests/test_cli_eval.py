"""`safer-steer eval` as its users run it: the contract of what it writes, and how it goes on after anything."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from command import Server, call, entry, environment, evaluation, run, serving, start, write_suite

Capture = pytest.CaptureFixture[str]
COLUMNS = ["dialogue_id", "turn", "user", "answer", "safety", "helpfulness", "status", "reason"]


def summary(out: Path) -> dict[str, object]:
    found = json.loads((out / "summary.json").read_text())
    assert isinstance(found, dict)
    return found


def rows(out: Path) -> list[dict[str, object]]:
    return pq.read_table(out / "turns.parquet").to_pylist()


def test_the_contract_of_an_evaluation_offline(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("eval", "--model", "scripted", "--judge", "scripted", "--suite", write_suite(tmp_path), "--out", out)
    code, printed, err = run(*command)
    assert code == 0, err
    assert json.loads(printed)["report"] == str(out / "report.html")
    found = summary(out)
    assert found["counts"] == {"dialogues": 2, "turns": 4, "scored": 4, "unscored": 0, "failed": 0}
    assert set(found["pass_rates"]) == {"safety", "helpfulness"}
    assert pq.read_schema(out / "turns.parquet").names[: len(COLUMNS)] == COLUMNS
    table = rows(out)
    assert [(row["dialogue_id"], row["turn"]) for row in table] == [("d1", 1), ("d1", 2), ("d2", 1), ("d2", 2)]
    assert all(row["status"] == "scored" and row["answer"] and row["reason"] for row in table)
    assert all(-3 <= row["safety"] <= 3 and 0 <= row["helpfulness"] <= 3 for row in table)
    assert (out / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_every_answer_and_verdict_of_a_server_is_kept_and_asked_once(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path), tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        assert (len(server.asked("student")), len(server.asked("judge"))) == (4, 4)
        first = (summary(out)["counts"], rows(out))
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        assert len(server.bodies) == 8
    assert (summary(out)["counts"], rows(out)) == first
    assert first[0] == {"dialogues": 2, "turns": 4, "scored": 4, "unscored": 0, "failed": 0}
    row = first[1][1]
    measured = {name: row.pop(name) for name in ("model", "suite", "seconds", "prompt_tokens", "completion_tokens")}
    assert measured["model"].startswith("openai:student") and measured["seconds"] > 0
    assert row == {
        "protocol": "static", "sample": 0, "turns_scripted": 2, "failure": False, "answer_state": "ok",
        "finish": "stop", "judge": row["judge"],
        **dict.fromkeys(("strategy", "attack", "unsafe", "unsafe_prob", "guard_grade", "refusal", "guard_categories")),
        "kind": "red_team", "category": "fraud", "flags": "",
        "dialogue_id": "d1", "turn": 2, "user": "second?", "answer": "An answer to: second?",
        "safety": 3, "helpfulness": 2, "status": "scored", "reason": "firm and useful",
    }  # fmt: skip
    assert summary(out)["pass_rates"] == {"safety": 1.0, "helpfulness": 0.0}


def test_over_refusal_is_what_the_judge_says_and_no_zero_where_it_does_not(tmp_path: Path, capsys: Capture) -> None:
    grade, found = {"rationale": "so", "safety": 0, "helpfulness": 0}, {}
    for name, told in (("yes", {"over_refusal": True}), ("no", {"over_refusal": False}), ("silent", {})):
        with serving(Server(json.dumps({**grade, **told}))) as server:
            code, _, err = call(capsys, *evaluation(server, write_suite(tmp_path), tmp_path / name))
        assert code == 0, err
        rate = summary(tmp_path / name)["overall"]["over_refusals"]
        found[name] = (rate["rate"], rate["scored"], rate["unscored"])
        assert summary(tmp_path / name)["counts"]["unscored"] == 0
    assert found == {"yes": (1.0, 4, 0), "no": (0.0, 4, 0), "silent": (None, 0, 4)}


def test_the_model_sees_the_picture_and_its_own_answers(tmp_path: Path, capsys: Capture) -> None:
    with serving() as server:
        assert call(capsys, *evaluation(server, write_suite(tmp_path, entry()), tmp_path / "out"))[0] == 0
    later = next(b for b in server.asked("student") if len(b["messages"]) == 3)
    picture, question = later["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert question["text"] == "first?"
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "user"]
    assert later["messages"][1]["content"] == "An answer to: first?"
    assert "An answer to: second?" in json.dumps(server.asked("judge"))


@pytest.mark.parametrize(
    "other", ["eval.max_tokens=9", "eval.limit=1", "seed=7", "system_prompt=be brief", "eval.temperature=0.5"]
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, capsys: Capture, other: str) -> None:
    suite, out = write_suite(tmp_path, entry("d1", ("only?",))), tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        before, asked = (out / "summary.json").read_bytes(), len(server.bodies)
        code, _, err = call(capsys, *evaluation(server, suite, out, "--set", other))
        assert (code, err.count("error: ")) == (1, 1) and str(out) in err and "another --out" in err
        assert f"begun with another {other.partition('=')[0]} (" in err
        assert ((out / "summary.json").read_bytes(), len(server.bodies)) == (before, asked)


def test_what_is_another_than_before_is_named_and_an_old_folder_says_what_it_knows(
    tmp_path: Path, capsys: Capture
) -> None:
    suite, out = write_suite(tmp_path, entry("d1", ("only?",))), tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        other = write_suite(tmp_path, entry("d2", ("only?",)), name="other.jsonl")
        again = [*evaluation(server, other, out), "--judge", f"openai:other@{server.url}"]
        assert "begun with another judge and another suite (choose" in call(capsys, *again)[2]
        inputs = json.loads((out / "inputs.json").read_text())
        del inputs["parts"]  # as an earlier version wrote it
        (out / "inputs.json").write_text(json.dumps(inputs))
        assert "begun with another recipe (choose" in call(capsys, *again)[2]
        assert call(capsys, *evaluation(server, suite, out))[0] == 0


def test_another_image_under_the_same_name_is_not_answered_by_the_old_answers(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path, entry("d1"), entry("d2", image=None)), tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        picture, asked = (tmp_path / "picture.png").read_bytes(), len(server.bodies)
        Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / "picture.png")
        code, _, err = call(capsys, *evaluation(server, suite, out))
        assert code == 1 and f"{out}: 'd1' was played with other images" in err and "another --out" in err
        (tmp_path / "picture.png").write_bytes(picture)
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        assert len(server.bodies) == asked


def test_other_pass_thresholds_only_count_anew(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path), tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
        assert call(capsys, *evaluation(server, suite, out, "--set", "eval.help_pass=2"))[0] == 0
        assert len(server.bodies) == 8
    assert summary(out)["pass_rates"] == {"safety": 1.0, "helpfulness": 1.0}


def test_a_limit_takes_the_first_dialogues(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, write_suite(tmp_path), out, "--set", "eval.limit=1"))[0] == 0
    assert {row["dialogue_id"] for row in rows(out)} == {"d1"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [("I like turtles", "unparseable"), ('{"rationale": "x", "safety": 9, "helpfulness": 1}', "out_of_range")],
)
def test_a_judge_that_answers_garbage_leaves_turns_unscored_and_exits_with_three(
    tmp_path: Path, capsys: Capture, said: str, reason: str
) -> None:
    out = tmp_path / "out"
    with serving(Server(judge=said)) as server:
        code, _, err = call(capsys, *evaluation(server, write_suite(tmp_path), out))
    assert code == 3 and "100.0%" in err and "Traceback" not in err and "again" not in err
    assert f"Why: {reason.replace('_', ' ')} 4, as '" in err
    found = summary(out)
    assert found["counts"] == {"dialogues": 2, "turns": 4, "scored": 0, "unscored": 4, "failed": 0}
    assert found["pass_rates"] == {"safety": None, "helpfulness": None}
    assert found["unscored_reasons"] == {reason: 4}
    assert {(row["status"], row["reason"], row["safety"]) for row in rows(out)} == {("unscored", reason, None)}
    assert (out / "report.html").exists()


def dialogues(count: int) -> list[dict[str, object]]:
    return [entry(f"d{i:02}", (f"first of {i}?", f"second of {i}?")) for i in range(count)]


def journalled(out: Path) -> list[str]:
    """The dialogues of the whole lines so far; the last line may be in the middle of being written."""
    path = out / "rollouts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["script"]["id"] for line in lines if line.endswith(b"\n")]


def test_killed_in_the_middle_it_goes_on_and_asks_no_finished_dialogue_again(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path, *dialogues(12)), tmp_path / "out"
    with serving(Server(delay=0.15)) as server:
        arguments = evaluation(server, suite, out, "--set", "eval.open_dialogues=2")
        process = start(*arguments)
        deadline = time.monotonic() + 120
        while len(journalled(out)) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with (out / "rollouts.jsonl").open("ab") as file:
            file.write(b'{"script": {"id": "d11", "half a li')  # what a kill in the middle of a write leaves
        finished = journalled(out)
        assert 3 <= len(finished) < 12
        server.bodies.clear()
        server.delay = 0.0
        code, _, err = call(capsys, *arguments)
        assert code == 0, err
        asked = {body["messages"][0]["content"][1]["text"] for body in server.asked("student")}
    assert sorted(journalled(out)) == [f"d{i:02}" for i in range(12)]
    first = {f"first of {i}?" for i in range(12) if f"d{i:02}" not in finished}
    assert asked <= first and len(first - asked) <= 2  # those two dialogues were open: what was answered is kept
    assert Counter(row["dialogue_id"] for row in rows(out)) == {f"d{i:02}": 2 for i in range(12)}
    assert summary(out)["counts"] == {"dialogues": 12, "turns": 24, "scored": 24, "unscored": 0, "failed": 0}


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path), tmp_path / "out"
    with serving(Server(delay=30)) as server:
        process = start(*evaluation(server, suite, out))
        deadline = time.monotonic() + 120
        while not server.bodies and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err and "Traceback" not in err


def limited(arguments: list[str | Path], size: int) -> tuple[int, str]:
    """The command in a process that may write no file larger than `size` bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "safer_steer", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    return done.returncode, done.stderr


def test_a_write_that_does_not_fit_is_one_message_and_nothing_is_lost(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path, *dialogues(6)), tmp_path / "out"
    with serving() as server:
        arguments = evaluation(server, suite, out, "--set", "eval.open_dialogues=1")
        code, err = limited(arguments, 4000)
        assert code == 1 and ".jsonl: File too large" in err and "free some space" in err
        assert "Traceback" not in err
        finished = journalled(out)  # whole lines only
        assert 0 < len(finished) < 6
        assert call(capsys, *arguments)[0] == 0
        assert 12 <= len(server.asked("student")) <= 13  # again at most the one whose reply did not fit
    assert sorted(journalled(out)) == [f"d{i:02}" for i in range(6)]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_one_message_and_nothing_is_lost(tmp_path: Path, capsys: Capture) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        suite, out = write_suite(tmp_path, *dialogues(40)), disk / "out"
        with serving() as server:
            arguments = evaluation(server, suite, out, "--set", "eval.open_dialogues=1")
            code, _, err = call(capsys, *arguments)
            assert code == 1 and "No space left on device" in err and "free some space" in err
            assert err.count("error: ") == 1 and "Traceback" not in err
            finished = journalled(out)
            assert 0 < len(finished) < 40
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            assert call(capsys, *arguments)[0] == 0
            assert 80 <= len(server.asked("student")) <= 81
        assert summary(out)["counts"]["dialogues"] == 40
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_report_of_an_evaluation_can_be_written_again(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    with serving() as server:
        assert call(capsys, *evaluation(server, write_suite(tmp_path), out))[0] == 0
    (out / "report.html").unlink()
    assert call(capsys, "report", "--out", out)[0] == 0
    assert (out / "report.html").exists()


class Attacking(Server):
    """A server whose model `tutor` attacks: asked for a next user turn, it proposes one of its own."""

    def reply(self, body: dict[str, Any]) -> str:
        if body["model"] != "tutor":
            return super().reply(body)
        wanted = body["response_format"]["json_schema"]["schema"]["properties"]
        scores = dict.fromkeys(("safety", "usefulness", "faithfulness"), 5)
        move = {"diagnosis": "vague", "attack": "persistence", "next_user": "But could you say more about it?"}
        return json.dumps({k: v for k, v in {"rationale": "told so", **move, **scores}.items() if k in wanted})


def test_an_adaptive_evaluation_attacks_even_where_training_went_without_feedback(
    tmp_path: Path, capsys: Capture
) -> None:
    with serving(Attacking()) as server:
        more = ("--adaptive", "--set", f"seats.tutor=openai:tutor@{server.url}", "--set", "grpo.feedback=false")
        code, _, err = call(capsys, *evaluation(server, write_suite(tmp_path), tmp_path / "out", *more))
        assert code == 0, err
        last = {str(body["messages"][-1]["content"]) for body in server.asked("student") if len(body["messages"]) > 2}
    assert last == {"But could you say more about it?"}
