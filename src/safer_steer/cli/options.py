"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from safer_steer.config import Recipe, load_recipe
from safer_steer.errors import ConfigError
from safer_steer.run_folder import RunFolder

RECIPES = Path(__file__).parents[1] / "recipes"

RecipeOption = Annotated[Path | None, typer.Option("--recipe", "-r", help="A recipe YAML; default: the demo's.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The run folder.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override, as section.key=value.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would run and cost; do nothing.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows that are wrong, and count them; default: stop.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where the folder stands; --no-resume insists on a new one.")
]
EngineOption = Annotated[str, typer.Option("--engine", help="local: this machine; verl: the recipe's cluster.")]


def recipe_of(path: Path | None, overrides: list[str] | None) -> Recipe:
    """The recipe in a file, or the demo's, with its overrides."""
    given = [] if overrides is None else overrides
    if path is None:
        return load_recipe(RECIPES / "demo.yaml", given, called="the default recipe")
    return load_recipe(path, given)


def awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """What the work gives; exits with 130 when it is interrupted."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None


_OF_A_FAILED_START = {"images", ".lock"}
"""What a command that ended before its work began may leave behind."""


def folder_of(out: Path, resume: bool) -> RunFolder:
    """The run folder to work in."""
    if out.exists() and not out.is_dir():
        raise ConfigError("is not a folder", where=out, hint="choose another --out")
    if not resume and out.exists() and {path.name for path in out.iterdir()} - _OF_A_FAILED_START:
        raise ConfigError("the folder is not empty", where=out, hint="drop --no-resume to go on with it")
    return RunFolder(out)
