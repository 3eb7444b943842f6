"""The pipeline around its stages: what a stage that is done gives back, and what a failure exits with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from safer_steer import cli
from safer_steer.actors.specs import Seating
from safer_steer.config import Recipe
from safer_steer.errors import BudgetSpent, Incomplete, SaferSteerError, StageError, TooMuchUnscored
from safer_steer.pipeline import Pipeline
from safer_steer.progress import Silent
from safer_steer.store import RunFolder


def test_a_stage_that_was_opened_again_gives_its_new_result(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    pipeline = Pipeline(Recipe(), run, Silent())
    wanted = 1

    async def work(seats: Seating) -> dict[str, Any]:
        done = run.finished("sift")
        if done is not None and done["wanted"] == wanted:
            return done
        run.reopen("sift")
        run.finish("sift", {"wanted": wanted})
        return {"wanted": wanted}

    def staged() -> dict[str, Any]:
        return asyncio.run(pipeline._staged("sift", work))

    first = staged()
    assert first["wanted"] == 1 and "seconds" in first and staged() == first
    wanted = 2
    second = staged()
    assert second["wanted"] == 2 and run.finished("sift") == second


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StageError("no"), 1),
        (TooMuchUnscored("few scores"), 3),
        (BudgetSpent("all gone"), 4),
        (ExceptionGroup("several", [Incomplete("a server was away")]), 5),
    ],
)
def test_what_went_wrong_is_told_by_the_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as left:
        cli.main()
    known = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert isinstance(known, SaferSteerError)
    assert left.value.code == code and capsys.readouterr().err == f"error: {known}\n"
