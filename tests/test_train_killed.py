"""kill -9 in the middle of SFT and of GRPO: the run goes on, and its losses are those of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from command import environment
from safer_steer.dialogue import Record
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.train.grpo import Transcript
from safer_steer.train.metrics import GrpoStep
from safer_steer.train.sft import SftStep, run_sft
from tiny_training import CLOCKS, likes_letters, model_folder, run_grpo, tiny_recipe, tiny_scripts, tutor, write_kept

SFT_STEPS, GRPO_STEPS = 12, 5


class Deadly(Silent):
    """Kills this process, as nobody can catch, when the `last` step has been told."""

    def __init__(self, last: int) -> None:
        self._left = last

    def advance(self, n: int = 1, **facts: object) -> None:
        self._left -= n
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def train(root: Path, start: Path, die_in_sft: int = -1, die_in_grpo: int = -1) -> None:
    """Both stages in the run folder `root`, each dying after so many steps of its own (-1: never)."""
    recipe = tiny_recipe(
        sft={"max_steps": SFT_STEPS, "checkpoint_every": 5, "learning_rate": 0.005},
        grpo={"steps": GRPO_STEPS, "checkpoint_every": 2, "updates_per_batch": 2},
    )
    run = RunFolder(root)
    write_kept(run)
    run_sft(recipe, run, start, Deadly(die_in_sft))
    scripts = tiny_scripts(run)
    run_grpo(
        recipe, run, root / "sft" / "model", scripts=scripts, tutor=tutor(likes_letters), report=Deadly(die_in_grpo)
    )


def die(root: Path, start: Path, *deaths: int) -> None:
    """The same in a process that dies. A fork: the imports of a fresh one take longer than the training."""
    child = os.fork()
    if child == 0:
        train(root, start, *deaths)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die_twice(cut: Path, start: Path) -> None:
    """Once in the middle of each stage."""
    die(cut, start, 8)
    assert len(lines(cut, "sft", SftStep)) == 8 and not (cut / "sft" / "model").exists()
    die(cut, start, -1, 3)
    assert len(lines(cut, "grpo", GrpoStep)) == 3 and not (cut / "grpo" / "model").exists()


def apart(cut: Path, start: Path) -> None:
    """`die_twice` in a process that has one thread, as a fork wants it."""
    code = "import sys, test_train_killed as t; t.die_twice(*map(t.Path, sys.argv[1:]))"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code, str(cut), str(start)],
        env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def lines(root: Path, stage: str, record: type[Record]) -> list[object]:
    return [line.model_dump(exclude=CLOCKS) for line in read_records(root / stage / "metrics.jsonl", record)]


def test_killed_twice_and_the_same_to_the_last_digit(tmp_path: Path) -> None:
    start, whole, cut = model_folder(tmp_path), tmp_path / "whole", tmp_path / "cut"
    train(whole, start)
    apart(cut, start)
    train(cut, start)
    for stage, record, steps in (("sft", SftStep, SFT_STEPS), ("grpo", GrpoStep, GRPO_STEPS)):
        assert len(lines(whole, stage, record)) == steps
        assert lines(cut, stage, record) == lines(whole, stage, record)
        weights = [(root / stage / "model" / "model.safetensors").read_bytes() for root in (whole, cut)]
        assert weights[0] == weights[1]
    told = [
        [(line.step, line.rollout.key, [turn.answer.raw for turn in line.rollout.turns]) for line in found]
        for found in (read_records(root / "grpo" / "rollouts.jsonl", Transcript) for root in (whole, cut))
    ]
    assert told[0] == told[1] != []
