"""Every error this package raises on purpose.

    SaferSteerError
    ├── ConfigError          a recipe, override or SPEC string is wrong
    ├── DataError            an input file is wrong: names file, line and field
    │   └── ImageError       an image is missing, empty, corrupt, too large or outside its folder
    ├── StorageError         a run folder cannot be read or written (disk full, permission, foreign format)
    ├── WeightsError         model weights are missing, corrupt, or of another version
    ├── ActorError           somebody in a seat failed; inside a dialogue it becomes a state, never a number
    │   ├── EndpointError    a model server: unreachable, refused, timed out, truncated, no key
    │   ├── ContextOverflow  the dialogue no longer fits the model
    │   └── BadVerdict       a judge, tutor or red agent replied with something that cannot be used
    ├── BudgetSpent          the recipe's budget is used up; with a larger one the same command goes on
    └── StageError           a stage cannot go on (nothing kept, inputs of another run)
        ├── Incomplete       too much was left undone for want of an answer; the same command goes on
        └── TooMuchUnscored  evaluations went through, but too few turns have a score

Each carries `what` failed, `where` (a file, an address, a dialogue) and `hint`, what to do about it.
"""

from __future__ import annotations

from pathlib import Path

from safer_steer.verdict import UnscoredReason


class SaferSteerError(Exception):
    """Base of the tree: `what` failed, `where`, and a `hint` on what to do.

    >>> print(SaferSteerError("recipe not found", where="demo.yaml", hint="check the path"))
    demo.yaml: recipe not found (check the path)
    """

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        place = "" if self.where is None else f"{self.where}: "
        advice = "" if self.hint is None else f" ({self.hint})"
        return f"{place}{self.what}{advice}"


class ConfigError(SaferSteerError):
    """A recipe, a `--set` override or a SPEC string is wrong."""


class DataError(SaferSteerError):
    """An input file is wrong; `where` reads `file:line: field` as far as they are known.

    `row` stands for `line` in files without lines: its number from 1 (parquet, JSON arrays) or its key (JSON objects).

    >>> print(DataError("not a string", file="seeds.jsonl", line=3, field="question"))
    seeds.jsonl:3: field 'question': not a string
    >>> print(DataError("is missing", file="train.parquet", row=7, field="image"))
    train.parquet, row 7: field 'image': is missing
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        row: int | str | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.file, self.line, self.row, self.field = file, line, row, field
        rows = "" if row is None else f", row {row}"
        place = None if file is None else str(file) + ("" if line is None else f":{line}") + rows
        super().__init__(what if field is None else f"field '{field}': {what}", where=place, hint=hint)


class ImageError(DataError):
    """An image is missing, empty, corrupt, too large, or outside the folder it was promised in."""


class StorageError(SaferSteerError):
    """A run folder cannot be read or written."""


class WeightsError(SaferSteerError):
    """Model weights are missing, corrupt or of another version."""


class ActorError(SaferSteerError):
    """Somebody in a seat failed. `converse` turns it into a state of the dialogue."""


class EndpointError(ActorError):
    """A model server did not give a usable reply."""


class ContextOverflow(ActorError):
    """The dialogue no longer fits the model's context."""


class BadVerdict(ActorError):
    """A judge or tutor replied with something that is not a verdict, or red with no user's turn.

    `reason` is how a verdict's absence will be counted.
    """

    def __init__(self, what: str, *, reason: UnscoredReason, where: str | None = None) -> None:
        self.reason = reason
        super().__init__(what, where=where)


class BudgetSpent(SaferSteerError):
    """The recipe's budget of calls, tokens or cost is used up. No `ActorError`: it ends the stage, not a dialogue."""


class StageError(SaferSteerError):
    """A stage of a run cannot go on."""


class Incomplete(StageError):
    """Servers left more than `max_undone_share` of a stage's work undone, or of an evaluation's turns more than
    `eval.max_unscored_share` unscored. What was done is kept."""


class TooMuchUnscored(StageError):
    """An evaluation went through, but more than `eval.max_unscored_share` of its turns have no score."""
