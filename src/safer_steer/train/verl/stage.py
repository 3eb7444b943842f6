"""`safer-steer sft|grpo --engine verl`: the stages of a run folder, on the recipe's cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safer_steer.actors.specs import SpecKind, parse_spec
from safer_steer.config import Recipe, Start
from safer_steer.dialogue import Script
from safer_steer.errors import ConfigError, StageError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.train.verl.launch import dry_run, dry_run_sft, run_grpo, run_sft


def run_stage(name: str, recipe: Recipe, run: RunFolder, report: Reporter) -> dict[str, Any]:
    """Run `sft` or `grpo` on the cluster, after the stage before it; returns its counts.

    GRPO starts from `sft/model`, whichever engine made it. No other process may be at work in the folder.
    Raises `ConfigError`, `StageError`, `StorageError`.
    """
    with run.locked():
        if name == "sft":
            _after(run, "bootstrap")
            return run_sft(recipe, run, base_model(recipe), report)
        _after(run, "sft" if recipe.grpo.start is Start.SFT else "bootstrap")
        scripts = tuple(read_records(run.root / "bootstrap" / "rl.jsonl", Script))
        return run_grpo(recipe, run, start_model(recipe, run), scripts, report)


def dry_run_text(name: str, recipe: Recipe, run: RunFolder) -> str:
    """verl's resolved configuration of the stage, after its validation; nothing is written or started."""
    if name == "sft":
        return dry_run_sft(recipe, run, base_model(recipe))
    return dry_run(recipe, run, start_model(recipe, run))


def start_model(recipe: Recipe, run: RunFolder) -> Path:
    """What Stage III begins with: `sft/model`, or the base model where the recipe says so."""
    return run.root / "sft" / "model" if recipe.grpo.start is Start.SFT else base_model(recipe)


def base_model(recipe: Recipe) -> Path:
    """The folder of the student before training; raises `ConfigError` for one that verl cannot load."""
    spec = parse_spec(recipe.seats.student)
    if spec.kind is not SpecKind.LOCAL or spec.model is None:
        hint = "name a folder that every node sees, as local:PATH"
        raise ConfigError(f"verl cannot train '{spec}'", where="seats.student", hint=hint)
    return Path(spec.model)


def _after(run: RunFolder, stage: str) -> None:
    if run.finished(stage) is None:
        hint = f"run `safer-steer {stage}` with the same --out first"
        raise StageError(f"the stage '{stage}' is not finished", where=run.root / stage, hint=hint)
