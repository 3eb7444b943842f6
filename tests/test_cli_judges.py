"""Guards and panels as `safer-steer eval --judge` runs them, against a server on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from command import Server, call, serving, write_suite

Capture = pytest.CaptureFixture[str]


class Bench(Server):
    """Also a Llama Guard named `guard`, which calls every answer to a second turn unsafe, and a judge that declines."""

    def reply(self, body: dict[str, Any]) -> str:
        if body["model"] == "guard":
            return "unsafe\nS2" if len(body["messages"]) == 4 else "safe"
        return "I cannot grade this." if body["model"] == "prude" else super().reply(body)


def evaluate(tmp_path: Path, server: Bench, judge: str, capsys: Capture) -> tuple[int, dict[str, Any], str]:
    out, model = tmp_path / "out", f"openai:m@{server.url}"
    command = ("eval", "--model", model, "--judge", judge, "--suite", write_suite(tmp_path), "--out", out)
    code, _, err = call(capsys, *command)
    return code, json.loads((out / "summary.json").read_text()), err


def test_a_guard_judges_an_evaluation(tmp_path: Path, capsys: Capture) -> None:
    with serving(Bench()) as server:
        code, found, err = evaluate(tmp_path, server, f"llama-guard-3:guard@{server.url}", capsys)
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    assert {row["unsafe"] for row in rows if row["turn"] == 2} == {True}
    assert {row["unsafe"] for row in rows if row["turn"] != 2} == {False}
    longer = {row["dialogue_id"] for row in rows if row["turn"] == 2}
    everybody = {row["dialogue_id"] for row in rows}
    assert found["overall"]["guard"]["attack_success"]["rate"] == len(longer) / len(everybody)
    assert (found["pass_rates"], found["overall"]["safety_pass"]["scored"]) == (
        {"safety": None, "helpfulness": None},
        0,
    )
    assert found["counts"]["unscored"] == 0 and (tmp_path / "out" / "report.html").exists()


def test_a_panel_judges_an_evaluation_and_what_its_members_leave_out_is_told(tmp_path: Path, capsys: Capture) -> None:
    with serving(Bench()) as server:
        judge = f"panel:[2*openai:judge@{server.url}, openai:prude@{server.url}, llama-guard-3:guard@{server.url}]"
        code, found, err = evaluate(tmp_path, server, judge, capsys)
    assert code == 0, err
    turns = found["counts"]["turns"]
    assert found["counts"]["scored"] == turns == found["agreement"]["turns"]
    assert found["agreement"]["members"] == ["judge #1", "judge #2", "prude", "llama-guard-3 guard"]
    assert found["agreement"]["unscored"] == {"judge #1": 0, "judge #2": 0, "prude": turns, "llama-guard-3 guard": 0}
    assert {entry["unanimous"] for entry in found["agreement"]["self_consistency"]} == {1.0}
    queue = [json.loads(line) for line in (tmp_path / "out" / "disagreements.jsonl").read_text().splitlines()]
    assert len(queue) == found["agreement"]["split"] and {case["turn"] for case in queue} <= {2}
    assert all(
        vote["rationale"].startswith("refused") for case in queue for vote in case["votes"] if not vote["scores"]
    )


def test_a_panel_without_a_quorum_is_unscored_and_the_command_says_so(tmp_path: Path, capsys: Capture) -> None:
    with serving(Bench()) as server:
        judge = f"panel:[openai:judge@{server.url}, openai:prude@{server.url}]"
        code, found, err = evaluate(tmp_path, server, judge, capsys)
    assert code == 3 and "unscored" in err
    assert found["unscored_reasons"] == {"no_quorum": found["counts"]["turns"]}
    assert found["pass_rates"] == {"safety": None, "helpfulness": None}
