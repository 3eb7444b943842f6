"""A table once, written three ways: CSV for programs, LaTeX for papers, columns of text for a terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safer_steer.store import write_atomic

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """`name` is the file's, `title` the caption; a missing figure is `None`, never a number."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def to_csv(table: Table) -> str:
    """Comma-separated, a header line, `None` as an empty field; text that a spreadsheet would run is quoted off.

    >>> to_csv(Table("t", "T", ("model", "rate"), (("a,b", 0.5), ("=1+1", None))))
    'model,rate\\n"a,b",0.5\\n\\'=1+1,\\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_harmless(cell) for cell in row] for row in table.rows)
    return buffer.getvalue()


def _harmless(cell: Cell) -> Cell:
    """A text beginning like a formula gets an apostrophe, as spreadsheets ask for; line ends are all alike."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$", "…": r"\ldots{}",
}  # fmt: skip


def latex(text: str) -> str:
    r"""Text as LaTeX shows it; line ends and control characters become spaces.

    >>> latex("50 % of a_b \\input{x}")
    '50 \\% of a\\_b \\textbackslash{}input\\{x\\}'
    """
    plain = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return "".join(_LATEX.get(character, character) for character in plain)


def to_latex(table: Table) -> str:
    """A `table` environment for `booktabs`: numbers to the right, texts to the left."""
    numbers = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    lines = [
        r"\begin{table}",
        rf"\caption{{{latex(table.title)}}}",
        rf"\label{{tab:{re.sub(r'[^a-z0-9-]+', '-', table.name.lower())}}}",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
        r"\toprule",
        " & ".join(latex(name) for name in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(latex(shown_cell(cell)) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def shown_cell(cell: Cell) -> str:
    """A cell as people read it: at most four significant digits after the point, a dash where there is nothing.

    >>> shown_cell(0.123456), shown_cell(12), shown_cell(None), shown_cell(55.58)
    ('0.1235', '12', '–', '55.58')
    """
    if cell is None:
        return "–"
    return f"{cell:.4f}".rstrip("0").rstrip(".") if isinstance(cell, float) else str(cell)


def to_text(table: Table) -> str:
    """The title and aligned columns."""
    cells = [list(table.columns), *([shown_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([table.title, lines[0], "  ".join("-" * width for width in widths), *lines[1:]]) + "\n"


def write_tables(folder: Path, tables: Iterable[Table]) -> list[Path]:
    """`<name>.csv` and `<name>.tex` of every table that has a row; returns what was written."""
    written = []
    for table in tables:
        if table.rows:
            for suffix, text in ((".csv", to_csv(table)), (".tex", to_latex(table))):
                path = folder / f"{table.name}{suffix}"
                write_atomic(path, text)
                written.append(path)
    return written
