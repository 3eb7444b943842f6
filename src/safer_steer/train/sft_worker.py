"""One of several processes that train together: `torchrun -m safer_steer.train.sft_worker JOB`."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil
import torch

from safer_steer.errors import SaferSteerError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_atomic
from safer_steer.train.batch import answer_tokens
from safer_steer.train.export import save_merged
from safer_steer.train.policy import Policy
from safer_steer.train.sft import STAGE, kept_dialogues, prepared, total_steps
from safer_steer.train.sft_processes import ERROR, Job, Plan, plan_file
from safer_steer.train.sft_trainer import train_with_trainer

WATCH_SECONDS = 1.0


def work(job: Job) -> None:
    """Train; the first process tells the plan, writes the journal and leaves the model."""
    recipe, run = job.recipe, RunFolder(job.root)
    folder, first = run.stage(STAGE), os.environ["RANK"] == "0"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    policy, tokenizer, examples = prepared(recipe, run, job.model, kept_dialogues(run))
    if first:
        steps = total_steps(len(examples), recipe.sft)
        plan = Plan(steps=steps, dialogues=len(examples), answer_tokens=answer_tokens(examples))
        write_atomic(plan_file(folder), plan.to_json() + "\n")
    _, learned = train_with_trainer(recipe, folder, policy, tokenizer, examples, Silent())
    if first:
        if learned is not None:  # the processes held it in parts: put it into a policy of its own
            policy = Policy.load(job.model, recipe.sft, seed=recipe.seed, device=torch.device("cpu"))
            policy.restore(learned)
        save_merged(policy, folder / "model")


def _end_with(parent: int) -> None:
    """End this process when the one that waits for it is gone: the next run must find the folder quiet."""
    while psutil.pid_exists(parent):
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def main() -> None:
    """Read the job, train, and say an error in one line; one that nobody foresaw with its traceback before it."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    threading.Thread(target=_end_with, args=(job.parent,), daemon=True).start()
    try:
        work(job)
    except SaferSteerError as error:
        print(f"{ERROR}{error}", flush=True)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split())
        print(f"{ERROR}{type(error).__name__}: {said}", flush=True)
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
