"""The demo in miniature: every stage, really run, on a student of a few thousand random weights."""

from __future__ import annotations

import json
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import Server, call, serving, start
from safer_steer.bench.metrics import Counts
from safer_steer.pipeline import MODELS, PROTOCOLS
from tiny_training import model_folder

Capture = pytest.CaptureFixture[str]
STAGES = ("construct", "bootstrap", "sft", "grpo", *(f"eval/{m}-{p}" for m in MODELS for p in PROTOCOLS))


class Tutor(Server):
    """A tutor behind a server, who finds differences even in gibberish: its grades go by what it was shown."""

    def reply(self, body: dict[str, Any]) -> str:
        if body["model"] != "tutor":
            return super().reply(body)
        shown = body["messages"][-1]["content"]
        text = shown if isinstance(shown, str) else shown[-1]["text"]
        grade = 1 + zlib.crc32(text.encode()) % 10
        scores = {"safety": grade, "usefulness": grade, "faithfulness": grade}
        follow_up = {"diagnosis": "vague", "attack": "persistence", "next_user": "But could you say more about it?"}
        wanted = body["response_format"]["json_schema"]["schema"]["properties"]
        return json.dumps({k: v for k, v in {"rationale": "told so", **follow_up, **scores}.items() if k in wanted})


def miniature(folder: Path, server: Server, judge: str | None = None) -> Path:
    """The recipe of a run of seconds: a dozen seeds, two steps each of SFT and GRPO, three dialogues to evaluate.

    The cast is offline but for the tutor, as no rubric tells one random student's gibberish from another's; and for
    the judge where `judge` says so: the offline one's networks take longer to load than all the rest.
    """
    student = f"local:{model_folder(folder)}"
    tutor, other = (f"openai:{name}@{server.url}" for name in ("tutor", "judge"))
    seats = {"student": student, "target": student, "tutor": tutor, "judge": other if judge is None else judge}
    lora = {"rank": 4, "alpha": 8}
    recipe = {
        "name": "miniature",
        "open_dialogues": 8,
        "seats": seats,
        "construction": {"max_seeds": 12, "strategies_per_seed": 1, "target_max_tokens": 8, "success_filter": False},
        "bootstrap": {"sft_share": 0.5},
        "sft": {"learning_rate": 1e-3, "batch_size": 2, "micro_batch": 2, "max_steps": 2, "lora": lora},
        "grpo": {
            "learning_rate": 1e-3, "steps": 2, "seeds_per_step": 2, "samples": 2, "max_turns": 2, "max_tokens": 6,
            "checkpoint_every": 1, "lora": lora,
        },
        "eval": {"suite": "steer-mini-val", "limit": 3, "max_tokens": 8},
    }  # fmt: skip
    path = folder / "miniature.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def finished(out: Path) -> list[str]:
    return [stage for stage in STAGES if (out / stage / "stage.json").exists()]


def check_whole(out: Path) -> None:
    """A run that went through has every stage's record, and a report with the same numbers as its summary."""
    assert finished(out) == list(STAGES)
    found = json.loads((out / "summary.json").read_text())
    assert set(found["evaluations"]) == {f"{m}-{p}" for m in MODELS for p in PROTOCOLS}
    for evaluation in found["evaluations"].values():
        counts = Counts(**evaluation["counts"])
        assert (counts.dialogues, counts.failed) == (3, 0)
        assert counts.scored + counts.unscored == counts.turns >= 6
    page = (out / "report.html").read_text()
    assert "<html" in page and "<script src" not in page and "http-equiv" in page
    for stage in ("construct", "bootstrap", "sft", "grpo"):
        record = json.loads((out / stage / "stage.json").read_text())
        assert record["seconds"] > 0 and record["peak_mb"] > 0, stage


@pytest.fixture(scope="module")
def server() -> Iterator[Tutor]:
    with serving(Tutor()) as served:
        assert isinstance(served, Tutor)
        yield served


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("straight")


Command = tuple[str | Path, ...]


@pytest.fixture
def straight(place: Path, server: Tutor, capsys: Capture) -> Command:
    """The command of a run that nothing disturbed. It is made once for the tests of this module."""
    command = ("demo", "--recipe", place / "miniature.yaml", "--out", place / "run")
    if not (place / "run").exists():
        miniature(place, server)
        code, _, err = call(capsys, *command)
        assert code == 0, err
        check_whole(place / "run")
    return command


def test_the_whole_method_runs_and_a_second_run_does_nothing_again(
    straight: Command, server: Tutor, capsys: Capture
) -> None:
    out, asked = Path(straight[-1]), len(server.bodies)
    code, _, err = call(capsys, *straight)
    assert code == 0, err
    assert "everything is already done" in err
    (out / "report.html").unlink()
    code, _, err = call(capsys, *straight)
    assert code == 0, err
    assert err.count("already done") == len(STAGES)
    assert (out / "report.html").is_file()
    assert len(server.bodies) == asked
    assert call(capsys, "eval", *straight[1:])[0] == 0
    code, _, err = call(capsys, "eval", *straight[1:], "--model", "scripted")
    assert code == 1 and "is the folder of a run" in err
    code, _, err = call(capsys, *straight, "--set", "eval.limit=2")
    assert code == 1 and "another eval.limit" in err


def kill_when(path: Path, *command: str | Path) -> None:
    """Start the command and kill it the moment `path` is there."""
    process = start(*command)
    deadline = time.monotonic() + 200
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err


@pytest.mark.parametrize(
    "moments",
    [
        ["grpo/checkpoint/state.pt"],
        pytest.param(
            [
                "construct/probes.jsonl", "bootstrap/rollouts.jsonl", "sft/model", "grpo/rollouts.jsonl",
                "eval/base-static/rollouts.jsonl", "eval/safer_steer-adaptive/inputs.json",
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["once", "at every stage"],
)  # fmt: skip
def test_killed_it_goes_on_and_comes_to_the_same_end(
    tmp_path: Path, straight: Command, server: Tutor, capsys: Capture, moments: list[str]
) -> None:
    out, undisturbed, command = tmp_path / "run", Path(straight[-1]), straight[:-1]
    if len(moments) > 1:
        undisturbed, command = (
            tmp_path / "straight",
            ("demo", "--recipe", miniature(tmp_path, server, "scripted"), "--out"),
        )
        assert call(capsys, *command, undisturbed)[0] == 0
    for moment in moments:
        kill_when(out / moment, *command, out)
    code, _, err = call(capsys, *command, out)
    assert code == 0, err
    check_whole(out)
    same = ("construct/red_team.jsonl", "bootstrap/kept.jsonl", "bootstrap/rl.jsonl", "sft/model/model.safetensors")
    for name in same:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert played(out) == played(undisturbed)


def played(out: Path) -> list[tuple[int, str]]:
    """The dialogues of GRPO, by step: which there are does not depend on when the tutor's replies came in."""
    lines = (json.loads(line) for line in (out / "grpo" / "rollouts.jsonl").read_bytes().splitlines())
    return sorted((line["step"], f"{line['rollout']['script']['id']}#{line['rollout']['sample']}") for line in lines)
