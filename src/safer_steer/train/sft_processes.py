"""SFT in several processes of this machine: started, watched, and ended with this one. `sft_worker` is their side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from safer_steer.actors.cores import CORES
from safer_steer.config import Recipe
from safer_steer.dialogue import Record
from safer_steer.errors import StageError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records, write_atomic
from safer_steer.train.sft import STAGE, Learned, SftStep

POLL_SECONDS = 0.2
ERROR = "error: "
"""How a worker's output begins the line that says what went wrong."""


class Job(Record):
    """What the workers are given: the recipe, the run's folder, the model's, and the process that waits for them."""

    recipe: Recipe
    root: Path
    model: Path
    parent: int


class Plan(Record):
    """What the first worker tells before it trains."""

    steps: int
    dialogues: int
    answer_tokens: int


def plan_file(folder: Path) -> Path:
    return folder / "plan.json"


def train_together(recipe: Recipe, run: RunFolder, model_path: Path, report: Reporter) -> Learned:
    """Train in `recipe.sft.processes` processes; they leave `sft/model`. Resumes as transformers' Trainer does.

    Raises `StageError` with the first error that a worker names; their output is in `sft/processes.log`.
    """
    folder = run.stage(STAGE)
    folder.mkdir(parents=True, exist_ok=True)
    job, log = folder / "job.json", folder / "processes.log"
    told = Job(recipe=recipe, root=run.root.absolute(), model=model_path.absolute(), parent=os.getpid())
    write_atomic(job, told.to_json() + "\n")
    plan_file(folder).unlink(missing_ok=True)
    count = recipe.sft.processes
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environ = {"OMP_NUM_THREADS": str(max(1, CORES // count)), **os.environ}
    with log.open("wb") as output:
        command = [*launcher, "-m", "safer_steer.train.sft_worker", str(job)]
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            _watch(process, folder, report)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise StageError(reason_in(log), where=log, hint="what was learned up to the last checkpoint is kept")
    plan = Plan.model_validate_json(plan_file(folder).read_bytes())
    losses = [line.loss for line in read_records(folder / "metrics.jsonl", SftStep)]
    return Learned(plan.dialogues, plan.answer_tokens, losses)


def _watch(process: subprocess.Popen[bytes], folder: Path, report: Reporter) -> None:
    """Tell the progress until the processes end."""
    while not plan_file(folder).exists():
        if process.poll() is not None:
            return
        time.sleep(POLL_SECONDS)
    plan, shown = Plan.model_validate_json(plan_file(folder).read_bytes()), 0
    with report.stage(STAGE, plan.steps):
        while process.poll() is None:
            shown = _advance(folder, shown, report)
            time.sleep(POLL_SECONDS)
        _advance(folder, shown, report)


def _advance(folder: Path, shown: int, report: Reporter) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the last one may be half written
    if len(lines) > shown:
        report.advance(len(lines) - shown, loss=SftStep.model_validate_json(lines[-1]).loss)
    return max(shown, len(lines))


def reason_in(log: Path) -> str:
    """What went wrong, by the workers' output: the first error that one named, else the signal that ended one."""
    text = log.read_text(errors="replace")
    said = [line.removeprefix(ERROR) for line in text.splitlines() if line.startswith(ERROR)]
    if said:
        return said[0]
    signalled = re.search(r"Signal \d+ \((\w+)\)", text)
    how = "without saying why" if signalled is None else f"by {signalled[1]}"
    return f"a training process ended {how}"
