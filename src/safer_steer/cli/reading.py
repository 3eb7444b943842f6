"""Commands that look at what there is: a run's report, an evaluation as a log, suites, a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from safer_steer.cli.options import OutOption, RecipeOption, SetOption, recipe_of
from safer_steer.errors import ConfigError
from safer_steer.progress import reporter
from safer_steer.run_folder import RunFolder


def report_(recipe: RecipeOption = None, out: OutOption = Path("runs/demo"), set_: SetOption = None) -> None:
    """Write the report of a run, or of one evaluation, again from what lies in its folder."""
    from safer_steer.pipeline import Pipeline

    if not out.is_dir():
        raise ConfigError("no such run folder", where=out, hint="give the --out of an earlier stage")
    if (out / "rollouts.jsonl").exists():  # the folder of `safer-steer eval`
        from safer_steer.bench.books import images_of
        from safer_steer.report import write_eval_report

        typer.echo(f"report: {write_eval_report(out, images_of(out))}", err=True)
    else:
        kept = out / "recipe.yaml"  # the recipe its last stage was run with
        chosen = kept if recipe is None and kept.is_file() else recipe
        Pipeline(recipe_of(chosen, set_), RunFolder(out), reporter()).write_report()


def inspect_log(
    out: OutOption,
    log: Annotated[
        Path | None, typer.Option("--log", help="The file to write, .eval or .json; default: DIR.eval.")
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Put the images into the log.")] = True,
) -> None:
    """Write an evaluation as an Inspect log, for `inspect view`. Needs the extra `inspect`."""
    from safer_steer.bench.books import images_of, require_evaluation

    require_evaluation(out)
    from safer_steer.inspecting.log import export_log

    target = out.with_name(f"{out.name}.eval") if log is None else log
    if target.suffix not in (".eval", ".json"):
        raise ConfigError("a log ends in .eval or .json", where=target, hint="choose another --log")
    count = export_log(out, target, images_of(out) if images else None)
    typer.echo(json.dumps({"dialogues": count, "log": str(target)}, indent=2))


def suites_() -> None:
    """List the suites and the seed loaders, with what each needs on disk."""
    from safer_steer.bench.suites import listing
    from safer_steer.seeds import LOADERS

    typer.echo("Suites, for --suite NAME or --suite NAME:PATH, and what must lie at PATH:\n")
    for name, turns, about, needs in listing():
        typer.echo(f"  {name:22} {turns:6}  {about}\n  {'':22} {'':6}  PATH: {needs}")
    typer.echo("\nSeed loaders, for construction.seeds: [{loader: NAME, path: PATH}]:\n")
    for name, loader in LOADERS.items():
        typer.echo(f"  {name:16} PATH: {'–' if loader.needs is None else loader.needs}")


def recipe_(recipe: RecipeOption = None, set_: SetOption = None) -> None:
    """Print a recipe whole: every key with its value."""
    settings = recipe_of(recipe, set_).model_dump(mode="json")
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip())
