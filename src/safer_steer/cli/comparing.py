"""Commands of the report: evaluations beside one another, and the paper's own tables."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.errors import ConfigError


class TableFormat(StrEnum):
    """How a table is printed."""

    TEXT = "text"
    CSV = "csv"
    LATEX = "latex"


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `safer-steer eval`, two or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")],
) -> None:
    """Put evaluations into one report: paired differences, log-rank tests, transcripts side by side."""
    from safer_steer.report import write_comparison

    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("no such folder", where=folder, hint="give folders that `safer-steer eval` wrote")
    if len(folders) < 2:
        raise ConfigError("there is nothing to compare it with", where=folders[0], hint="give two folders or more")
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError("is one of the evaluations", where=out, hint="choose another --out")
    typer.echo(f"report: {write_comparison(folders, out)}", err=True)


def paper(
    table: Annotated[int | None, typer.Option("--table", help="2 single-turn, 3 multi-turn, 8, 9 ablations.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="3B or 7B.")] = None,
    format_: Annotated[TableFormat, typer.Option("--format", help="text, csv or latex.")] = TableFormat.TEXT,
) -> None:
    """Print the paper's own results: every method, model and suite, pass rates in per cent."""
    from safer_steer.report.paper import paper_tables, select
    from safer_steer.report.tables import to_csv, to_latex, to_text

    found = paper_tables(select(table=table, size=size))
    if not found:
        hint = "tables 2, 3, 8 and 9; sizes 3B and 7B (tables 8 and 9 have 3B only)"
        raise ConfigError("the paper has no such table", where="paper", hint=hint)
    write = {TableFormat.TEXT: to_text, TableFormat.CSV: to_csv, TableFormat.LATEX: to_latex}[format_]
    sys.stdout.write("\n".join(write(one) for one in found))
