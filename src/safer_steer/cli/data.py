"""The commands `data …`: what a finished run's data consists of, and other formats of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.errors import ConfigError
from safer_steer.run_folder import RunFolder

data = typer.Typer(no_args_is_help=True, help="What a finished run's data consists of, and other formats of it.")
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run whose `bootstrap` is done.")]


@data.command()
def stats(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Where to write; default: DIR/data.")] = None,
) -> None:
    """Sizes, turns, kinds, strategies, categories, success rates: printed, plotted, and in a dataset card."""
    from safer_steer.exports.card import write_card
    from safer_steer.exports.stats import text_of

    folder = run / "data" if to is None else to
    found = write_card(_finished(run), folder)
    typer.echo(text_of(found), nl=False)
    typer.echo(f"wrote README.md, stats.json, stats.txt and stats.png into {folder}", err=True)


@data.command("export")
def export_(
    run: RunArgument,
    format: Annotated[str, typer.Option("--format", "-f", help="trl, llamafactory, verl, hub or jsonl.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write; default: DIR/data/FORMAT.")] = None,
) -> None:
    """The splits of a run as another trainer or viewer reads them."""
    from safer_steer.exports import export

    folder = run / "data" / format if to is None else to
    for name, number in export(_finished(run), format, folder).items():
        typer.echo(f"{folder / name}: {number}")


@data.command()
def check(
    run: RunArgument,
    suite: Annotated[str, typer.Option("--suite", help="A built-in suite, or its file or folder.")],
) -> None:
    """What of a run's training data stands in a benchmark too, by words and by image. Exit code 1 if anything does."""
    from safer_steer.exports.check import against

    found = against(_finished(run), suite)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    if found:
        raise typer.Exit(1)


def _finished(run: Path) -> RunFolder:
    if not run.is_dir():
        raise ConfigError("no such run folder", where=run, hint="give the --out of an earlier stage")
    return RunFolder(run)
