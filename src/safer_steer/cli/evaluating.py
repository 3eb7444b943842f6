"""The commands `eval` and `rejudge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safer_steer.cli.options import (
    DryOption,
    OutOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    SkipOption,
    awaited,
    folder_of,
    recipe_of,
)
from safer_steer.cli.stages import STAGES, run_stage
from safer_steer.config import Recipe
from safer_steer.errors import ConfigError
from safer_steer.progress import reporter
from safer_steer.run_folder import RunFolder

if TYPE_CHECKING:
    from safer_steer.bench.evaluate import Summary


def evaluate_(
    out: OutOption,
    model: Annotated[str | None, typer.Option("--model", help="SPEC of the model under test.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="SPEC of the judge; default: the recipe's.")] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="NAME or NAME:PATH of `safer-steer suites`, or a STEER-Bench file.")
    ] = None,
    skip_bad_rows: SkipOption = False,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Let the tutor attack the model.")] = False,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
) -> None:
    """Judge every turn of a suite against a model: summary.json, turns.parquet and report.html.

    SPEC is `embedded`, `scripted`, `local:PATH` or `openai:MODEL@BASE_URL` (key from OPENAI_API_KEY). Without --model,
    DIR is a run: its base, SFT and SaFeR-Steer models are evaluated, static and adaptive.
    """
    if adaptive and model is None:
        hint = "give --model; without it a run's models are evaluated both ways"
        raise ConfigError("says how one model is evaluated", where="--adaptive", hint=hint)
    settings = recipe_of(recipe, set_)
    chosen = settings.eval.model_copy(
        update={
            "suite": settings.eval.suite if suite is None else suite,
            "adaptive": adaptive or settings.eval.adaptive,
            "skip_bad_rows": skip_bad_rows or settings.eval.skip_bad_rows,
        }
    )
    seats = settings.seats.model_copy(update={} if judge is None else {"judge": judge})
    settings = settings.model_copy(update={"eval": chosen, "seats": seats})
    if model is None and not dry_run and not any((out / stage.name).is_dir() for stage in STAGES):
        raise ConfigError("is no run's folder", where=out, hint="give --model SPEC, or the --out of a run")
    if model is None:
        run_stage("eval", settings, out, dry_run, resume)
    else:
        awaited(_evaluate(settings, model, folder_of(out, resume), dry_run))


async def _evaluate(recipe: Recipe, model: str, run: RunFolder, dry_run: bool) -> None:
    from safer_steer import forecast
    from safer_steer.actors.specs import Seating, parse_spec
    from safer_steer.pipeline import check_seats, evaluate

    parse_spec(model)
    check_seats(recipe)
    protocol = "adaptive" if recipe.eval.adaptive else "static"
    if dry_run:
        typer.echo(forecast.evaluation_text(recipe, model))
        return
    if (run.root / "construct").exists():
        hint = "choose another --out, or leave out --model to evaluate the run's own models"
        raise ConfigError("is the folder of a run, whose report must stay its own", where=run.root, hint=hint)
    report = reporter()
    async with Seating(recipe, run.images, notify=report.note) as seats:
        summary = await evaluate(recipe, seats, run, model, run.root, protocol, report)
    _tell(summary, recipe, run)


def rejudge_(
    run: Annotated[Path, typer.Option("--run", help="The folder of a finished evaluation.")],
    judge: Annotated[str, typer.Option("--judge", help="SPEC of the judge.")],
    out: OutOption,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    resume: ResumeOption = True,
) -> None:
    """Judge the transcripts of an evaluation by another judge, without asking the model again."""
    settings = recipe_of(recipe, set_)
    settings = settings.model_copy(update={"seats": settings.seats.model_copy(update={"judge": judge})})
    awaited(_rejudge(settings, run, folder_of(out, resume)))


async def _rejudge(recipe: Recipe, source: Path, out: RunFolder) -> None:
    from safer_steer.actors.specs import Seating
    from safer_steer.pipeline import check_seats
    from safer_steer.rejudging import rejudge

    check_seats(recipe)
    report = reporter()
    async with Seating(recipe, out.images, notify=report.note) as seats:
        summary = await rejudge(recipe, seats, source, out, report)
    _tell(summary, recipe, out, played_again=False)


def _tell(summary: Summary, recipe: Recipe, run: RunFolder, *, played_again: bool = True) -> None:
    """The counts on standard output; raises what says that too much is unscored."""
    from safer_steer.pipeline import too_much_unscored

    counts = summary.overall.counts
    typer.echo(json.dumps({"counts": counts.model_dump(), "report": str(run.root / "report.html")}, indent=2))
    if problem := too_much_unscored(summary, recipe, run.root, played_again=played_again):
        raise problem
