"""SFT in several processes of one machine: what they learn, what they leave, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from safer_steer.actors.local import LocalModel
from safer_steer.config import recipe_from
from safer_steer.errors import ConfigError, StageError
from safer_steer.store import read_records
from safer_steer.train import sft_worker
from safer_steer.train.sft import SftStep
from safer_steer.train.sft_processes import Job, reason_in
from tiny_training import LORA, model_folder, sft


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def weights(root: Path) -> dict[str, torch.Tensor]:
    return dict(LocalModel.load(root / "sft" / "model").model.state_dict())


def check_same(theirs: Path, ours: Path) -> None:
    """The same steps, as far as several processes round the same; the same weights."""
    one, two = (list(read_records(root / "sft" / "metrics.jsonl", SftStep)) for root in (ours, theirs))
    assert [(line.step, line.tokens) for line in two] == [(line.step, line.tokens) for line in one]
    for name in ("loss", "learning_rate", "grad_norm"):
        assert [getattr(line, name) for line in two] == pytest.approx([getattr(line, name) for line in one], rel=1e-4)
    before, after = weights(ours), weights(theirs)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


# With adapters the run below says the same of one that was killed in between.
@pytest.mark.parametrize("lora", [pytest.param(LORA, marks=pytest.mark.slow), None])
def test_two_processes_learn_what_one_learns(tmp_path: Path, start: Path, lora: dict[str, int] | None) -> None:
    sft(tmp_path / "loop", start, lora=lora)
    sft(tmp_path / "two", start, lora=lora, engine="trainer", processes=2)
    check_same(tmp_path / "two", tmp_path / "loop")


def test_a_run_goes_on_after_its_processes_were_killed(tmp_path: Path, start: Path) -> None:
    more: dict[str, object] = {"engine": "trainer", "processes": 2}
    sft(tmp_path / "loop", start)
    script = (
        "import sys; from pathlib import Path; from tiny_training import sft;"
        f"sft(Path(sys.argv[1]), Path(sys.argv[2]), **{more})"
    )
    cut = tmp_path / "cut"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", script, str(cut), str(start)], env=environ)
    lines = cut / "sft" / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive  # they ended with the one that waited for them
    sft(cut, start, **more)
    check_same(cut, tmp_path / "loop")


def test_what_went_wrong_in_a_process_is_said(tmp_path: Path, start: Path) -> None:
    with pytest.raises(ConfigError, match="several processes need"):
        recipe_from({"sft": {"processes": 2}})
    with pytest.raises(StageError, match="FSDP shards over GPUs"):
        sft(tmp_path, start, engine="trainer", processes=2, trainer={"fsdp": "full_shard"})
    assert not (tmp_path / "sft" / "model").exists()


@pytest.mark.slow  # a second message on the same way; with one process test_train_engines.py reads it
def test_what_the_trainer_does_not_take_is_said_from_a_process(tmp_path: Path, start: Path) -> None:
    with pytest.raises(StageError, match="TrainingArguments takes"):
        sft(tmp_path, start, engine="trainer", processes=2, trainer={"no_such_setting": 1})
    assert not (tmp_path / "sft" / "model").exists()


def test_an_error_nobody_foresaw_is_said_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(job: object) -> None:
        raise ZeroDivisionError("by\nnothing")

    job = Job(recipe=recipe_from({}), root=tmp_path, model=tmp_path, parent=0)
    (tmp_path / "job.json").write_text(job.to_json())
    monkeypatch.setattr(sft_worker, "work", breaks)
    monkeypatch.setattr(sft_worker, "_end_with", lambda parent: None)
    monkeypatch.setattr(sys, "argv", ["sft_worker", str(tmp_path / "job.json")])
    with pytest.raises(SystemExit, match="1"):
        sft_worker.main()
    told, traceback = capsys.readouterr()
    assert "in breaks" in traceback
    log = tmp_path / "processes.log"
    for text, reason in (
        (traceback + told + "error: later, of another process\n", "ZeroDivisionError: by nothing"),
        ("traceback : Signal 9 (SIGKILL) received by PID 12\n", "a training process ended by SIGKILL"),
        ("", "a training process ended without saying why"),
    ):
        log.write_text(text)
        assert reason_in(log) == reason
