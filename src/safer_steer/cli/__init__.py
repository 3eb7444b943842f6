"""The command `safer-steer`. Exit codes: 0 done · 1 something failed, said in one message · 2 wrong usage ·
3 evaluated, but too much is unscored · 4 stopped at the recipe's budget · 5 incomplete, a server gave no answer ·
130 interrupted."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from safer_steer import __version__
from safer_steer.cli import comparing, evaluating, reading
from safer_steer.cli.data import data
from safer_steer.cli.options import RECIPES
from safer_steer.cli.stages import add_stages
from safer_steer.errors import BudgetSpent, Incomplete, SaferSteerError, TooMuchUnscored
from safer_steer.measured import keep_large_blocks_apart

__all__ = ["RECIPES", "app", "main"]

EXIT_CODES: dict[type[SaferSteerError], int] = {TooMuchUnscored: 3, BudgetSpent: 4, Incomplete: 5}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Multi-turn safety alignment of vision-language models: build dialogues, train on them, judge every turn.",
)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"safer-steer {__version__}")
        raise typer.Exit


add_stages(app)
app.command("eval")(evaluating.evaluate_)
app.command("rejudge")(evaluating.rejudge_)
app.add_typer(data, name="data")
app.command("report")(reading.report_)
app.command("inspect-log")(reading.inspect_log)
app.command("suites")(reading.suites_)
app.command("compare")(comparing.compare)
app.command("paper")(comparing.paper)
app.command("recipe")(reading.recipe_)


def _first_known(error: BaseException) -> SaferSteerError | None:
    """The error to show: of a group, the first that is ours."""
    if isinstance(error, SaferSteerError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _first_known(inner))), None)
    return None


def main() -> None:
    """Entry point: runs a command, says an error in one message, and exits with a truthful code."""
    # Threads wait awake for a moment between two products, but idle pools must not spin: two cores, several pools.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the loaders' own bars would tear ours
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_large_blocks_apart()
    try:
        app()
    except (SaferSteerError, ExceptionGroup) as error:
        known = _first_known(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(known, kind)), 1))
    except OSError as error:  # not about a file of the run, which is a StorageError: the temporary folder, a pipe
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
