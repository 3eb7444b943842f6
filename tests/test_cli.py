"""The command line: what it says without being asked to work, and what it would do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from command import call, run, write_suite
from safer_steer import __version__
from safer_steer.__main__ import main
from safer_steer.config import Recipe
from safer_steer.forecast import EXCLUDED

Capture = pytest.CaptureFixture[str]
STAGES = ("construct", "bootstrap", "sft", "grpo")


def test_it_says_its_version_as_a_process() -> None:
    assert run("--version") == (0, f"safer-steer {__version__}\n", "")


def test_without_arguments_it_shows_its_help(capsys: Capture) -> None:
    code, out, err = call(capsys)
    assert code == 2 and err == ""
    for command in ("demo", *STAGES, "eval", "report", "recipe"):
        assert f" {command} " in out


@pytest.mark.parametrize("arguments", [["dance"], ["eval"], ["demo", "--loud"], ["eval", "--model"]])
def test_wrong_usage_is_two(capsys: Capture, arguments: list[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2 and ("Usage" in err or "Error" in err)


def test_the_printed_recipe_is_whole_and_can_be_read_back(tmp_path: Path, capsys: Capture) -> None:
    code, printed, err = call(capsys, "recipe", "--set", "grpo.samples=7", "--set", "seats.judge=openai:m@http://h/v1")
    assert (code, err) == (0, "")
    recipe = Recipe.model_validate(yaml.safe_load(printed))
    assert (recipe.name, recipe.grpo.samples, recipe.seats.judge) == ("demo", 7, "openai:m@http://h/v1")
    path = tmp_path / "again.yaml"
    path.write_text(printed)
    assert call(capsys, "recipe", "--recipe", path) == (0, printed, "")


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_of_a_stage_says_what_it_would_do_and_does_nothing(
    tmp_path: Path, capsys: Capture, stage: str
) -> None:
    out = tmp_path / "out"
    code, printed, err = call(capsys, stage, "--dry-run", "--out", out, "--set", "construction.max_seeds=12")
    forecast = json.loads(printed)
    assert (code, err, out.exists()) == (0, "", False)
    assert set(forecast) == {"recipe", "seats", stage, "not counted"}
    assert forecast[stage]


def test_a_dry_run_of_grpo_counts(capsys: Capture) -> None:
    settings = {"steps": 3, "seeds_per_step": 2, "samples": 4, "max_turns": 5, "retries": 1}
    overrides = [part for key, value in settings.items() for part in ("--set", f"grpo.{key}={value}")]
    forecast = json.loads(call(capsys, "grpo", "--dry-run", *overrides)[1])["grpo"]
    assert forecast["dialogues"] == 24
    assert forecast["student answers at most"] == forecast["tutor calls at most"] == 240
    assert not any("probe" in key for key in forecast)


def test_a_dry_run_of_grpo_counts_the_probe(capsys: Capture) -> None:
    """Steps 1, 3, 6 and 9 are probed, by a judge asked twice and another one asked once."""
    settings = {"grpo.steps": 10, "grpo.probe_every": 3, "grpo.probe_scripts": 4, "grpo.max_turns": 5}
    judge = "panel:[scripted, 2*openai:m@http://h/v1]"
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    found = json.loads(call(capsys, "grpo", "--dry-run", "--set", f'seats.judge="{judge}"', *overrides)[1])["grpo"]
    assert found["probe at most: answers"] == 4 * 4 * 5
    assert found["probe at most: judge calls"] == 4 * 4 * 5 * 3
    single = json.loads(call(capsys, "grpo", "--dry-run", "--set", "single_turn=true", *overrides)[1])["grpo"]
    assert single["probe at most: answers"] == 4 * 4


def test_a_dry_run_of_the_demo_names_every_stage(tmp_path: Path, capsys: Capture) -> None:
    suite = write_suite(tmp_path)
    code, printed, _ = call(capsys, "demo", "--dry-run", "--out", tmp_path / "out", "--set", f"eval.suite={suite}")
    forecast = json.loads(printed)
    assert code == 0 and not (tmp_path / "out").exists()
    assert list(forecast) == ["recipe", "seats", *STAGES, "eval", "not counted"]
    assert forecast["eval"] == {
        "suite": str(suite), "evaluations": 6, "dialogues": 12, "answers": 24, "judge calls": 24, "tutor calls": 6,
    }  # fmt: skip


def test_a_dry_run_of_an_evaluation_counts_and_asks_nobody(tmp_path: Path, capsys: Capture) -> None:
    suite = write_suite(tmp_path)
    model = "openai:m@https://models.example.org/v1"
    command = ("eval", "--model", model, "--judge", "scripted", "--suite", suite, "--out", tmp_path / "out")
    code, printed, _ = call(capsys, *command, "--dry-run", "--set", "eval.limit=1")
    assert code == 0 and not (tmp_path / "out").exists()
    assert json.loads(printed) == {
        "model": model, "judge": "scripted", "suite": str(suite), "dialogues": 1, "answers": 2, "judge calls": 2,
        "not counted": EXCLUDED,
    }  # fmt: skip
    adaptive = json.loads(call(capsys, *command, "--dry-run", "--adaptive")[1])
    assert (adaptive["answers"], adaptive["tutor calls"]) == (4, 2)


def test_an_override_that_is_wrong_is_not_blamed_on_a_file(tmp_path: Path, capsys: Capture) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("grpo: {stepz: 1}\n")
    default = "error: --set: unknown key 'grpo.stepz' ("
    assert default in call(capsys, "recipe", "--set", "grpo.stepz=3")[2]
    assert default in call(capsys, "recipe", "--recipe", own, "--set", "grpo.stepz=3")[2]
    assert f"error: {own}: unknown key 'grpo.stepz' (" in call(capsys, "recipe", "--recipe", own)[2]
    both = call(capsys, "recipe", "--recipe", own, "--set", "seed=zero")[2]
    assert f"error: {own}: --set: 'seed': " in both and "; unknown key 'grpo.stepz' (" in both
    assert "error: --set: 'seed': " in call(capsys, "recipe", "--set", "seed=zero")[2]
    assert "demo.yaml" not in call(capsys, "recipe", "--set", "eval=3")[2]


def test_an_evaluation_without_a_model_in_no_run_says_what_to_give(tmp_path: Path, capsys: Capture) -> None:
    code, _, err = call(capsys, "eval", "--suite", write_suite(tmp_path), "--out", tmp_path / "out")
    assert code == 1 and "give --model SPEC, or the --out of a run" in err and not (tmp_path / "out").exists()


def test_what_a_failed_start_left_is_still_a_new_folder(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path), tmp_path / "out"
    command = ["eval", "--model", "openai:m@http://127.0.0.1:9/v1", "--suite", suite, "--out", out, "--no-resume"]
    for _ in range(2):
        code, _, err = call(capsys, *command)
        assert code == 1 and "cannot connect" in err and (out / "images").is_dir()
    (out / "rollouts.jsonl").touch()
    assert "the folder is not empty" in call(capsys, *command)[2]


def test_help_loses_no_word_to_markup(capsys: Capture) -> None:
    assert "Needs the extra `inspect`." in " ".join(call(capsys, "inspect-log", "--help")[1].split())


def test_an_interrupt_during_the_first_imports_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "safer_steer.cli", Interrupted("safer_steer.cli"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"
