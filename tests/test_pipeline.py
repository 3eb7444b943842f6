"""The pipeline around its stages: what a stage that is done gives back, and what a failure exits with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from people import script
from safer_steer import cli
from safer_steer.actors.specs import Seating
from safer_steer.asked import stage_print
from safer_steer.config import Recipe, recipe_from
from safer_steer.dialogue import ScriptKind
from safer_steer.errors import BudgetSpent, Incomplete, SaferSteerError, StageError, TooMuchUnscored
from safer_steer.pipeline import Pipeline
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_records


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


def test_a_stage_that_is_done_is_known_before_anybody_is_seated(tmp_path: Path) -> None:
    """The work is what seats people; here it only counts. Another recipe, other files: the stage looks for itself."""
    run, asked = RunFolder(tmp_path), 0
    made = [script("a", "b", id="s1")]
    for kind in ScriptKind:
        write_records(tmp_path / "construct" / f"{kind}.jsonl", made if kind is ScriptKind.RED_TEAM else [])

    async def work(seats: Seating) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        run.finish("bootstrap", {"kept": asked})
        return {"kept": asked}

    def staged(**settings: Any) -> dict[str, Any]:
        return asyncio.run(Pipeline(recipe_from(settings), run, Silent())._staged("bootstrap", work))

    first = staged()
    assert staged() == first and asked == 1
    for number, change in enumerate(({"seats": {"red": "openai:m@http://h/v1"}}, {"bootstrap": {"tau_safe": 9}}), 2):
        assert staged(**change)["kept"] == staged(**change)["kept"] == asked == number
    write_records(tmp_path / "construct" / "benign.jsonl", [script("c", "d", id="s2")])
    assert staged(bootstrap={"tau_safe": 9})["kept"] == 4
    run.reopen("bootstrap")
    assert staged(bootstrap={"tau_safe": 9})["kept"] == 5


def test_seeds_of_ones_own_are_always_looked_into(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    assert stage_print(recipe_from({"construction": {"seeds": str(seeds)}}), RunFolder(tmp_path), "construct") is None
    assert stage_print(recipe_from({}), RunFolder(tmp_path), "construct") is not None


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
