"""The stages as commands: one table, one way to run them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from safer_steer.cli.options import (
    DryOption,
    EngineOption,
    OutOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    SkipOption,
    awaited,
    folder_of,
    recipe_of,
)
from safer_steer.config import Recipe
from safer_steer.errors import ConfigError
from safer_steer.progress import reporter
from safer_steer.run_folder import RunFolder

OPTIONS: dict[str, tuple[Any, Any]] = {
    "recipe": (RecipeOption, None),
    "out": (OutOption, Path("runs/run")),
    "set_": (SetOption, None),
    "skip_bad_rows": (SkipOption, False),
    "dry_run": (DryOption, False),
    "resume": (ResumeOption, True),
    "engine": (EngineOption, "local"),
}
"""Every option of a stage, in the order of the help: its annotation and its default."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's command: its name and help, the options that not every stage has, and another folder."""

    name: str
    help: str
    takes: frozenset[str] = frozenset()
    out: Path | None = None


STAGES = (
    Stage(
        "demo",
        "The whole method, small but real: construct, bootstrap, SFT, GRPO, evaluate, report.",
        out=Path("runs/demo"),
    ),
    Stage("construct", "Stage I: single-turn seeds to multi-turn scripts.", frozenset({"skip_bad_rows"})),
    Stage("bootstrap", "Stage II: red against blue; keep the dialogues the reward judge lets through."),
    Stage("sft", "Stage II: fine-tune the student on the kept dialogues.", frozenset({"engine"})),
    Stage("grpo", "Stage III: GRPO against the tutor.", frozenset({"engine"})),
)
_NOT_EVERYWHERE = frozenset({"skip_bad_rows", "engine"})


def add_stages(app: typer.Typer) -> None:
    """Make a command of every row of `STAGES`."""
    for stage in STAGES:
        app.command(stage.name, help=stage.help)(_command(stage))


def _command(stage: Stage) -> Callable[..., None]:
    """The function of a stage's command. Its signature, which is where typer looks, is made from the table."""

    def command(
        *,
        recipe: Path | None,
        out: Path,
        set_: list[str] | None,
        dry_run: bool,
        resume: bool,
        skip_bad_rows: bool = False,
        engine: str = "local",
    ) -> None:
        more = ["construction.skip_bad_rows=true"] if skip_bad_rows else []
        settings = recipe_of(recipe, [*([] if set_ is None else set_), *more])
        _trained(stage.name, engine, settings, out, dry_run, resume)

    chosen = {name: option for name, option in OPTIONS.items() if name not in _NOT_EVERYWHERE or name in stage.takes}
    if stage.out is not None:
        chosen["out"] = (OutOption, stage.out)
    command.__annotations__ = {name: annotation for name, (annotation, _) in chosen.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in chosen.items()
        ]
    )
    return command


def _trained(name: str, engine: str, settings: Recipe, out: Path, dry_run: bool, resume: bool) -> None:
    """A stage on this machine, or a training stage on verl."""
    if engine not in ("local", "verl"):
        raise ConfigError(f"there is no engine '{engine}'", where="--engine", hint="local or verl")
    if engine == "local":
        run_stage(name, settings, out, dry_run, resume)
        return
    from safer_steer.pipeline import check_seats
    from safer_steer.train.verl import stage as verl

    check_seats(settings)
    if dry_run:
        typer.echo(verl.dry_run_text(name, settings, RunFolder(out)))
        return
    result = verl.run_stage(name, settings, folder_of(out, resume), reporter())
    typer.echo(json.dumps(result, indent=2, default=str))


def run_stage(name: str, settings: Recipe, out: Path, dry_run: bool, resume: bool) -> None:
    """One stage of the pipeline, or (`demo`) all of them, on this machine; or what it would take."""
    from safer_steer import forecast
    from safer_steer.pipeline import Pipeline, check_probe, check_seats

    check_seats(settings)
    if name in ("demo", "grpo"):
        check_probe(settings)
    if dry_run:
        typer.echo(forecast.text(settings, None if name == "demo" else name, RunFolder(out)))
        return
    pipeline = Pipeline(settings, folder_of(out, resume), reporter())
    steps = {
        "construct": pipeline.construct,
        "bootstrap": pipeline.bootstrap,
        "sft": pipeline.sft,
        "grpo": pipeline.grpo,
        "eval": pipeline.evaluate_all,
        "demo": pipeline.everything,
    }
    result = awaited(steps[name]())
    if result is not None:
        typer.echo(json.dumps(result, indent=2, default=str))
