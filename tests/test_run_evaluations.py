"""The evaluations of a run: what finishes one, what opens it again, and what its record hangs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from command import Server, call, entry, serving, write_suite
from faulty import Faulty, failing
from safer_steer import pipeline
from safer_steer.asked import whole_print
from safer_steer.config import recipe_from
from safer_steer.pipeline import Pipeline, evaluation_inputs
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def only_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MODELS", ("base",))
    monkeypatch.setattr(pipeline, "PROTOCOLS", ("static",))


def begun(folder: Path, server: Server | Faulty) -> list[str | Path]:
    """`safer-steer eval` of a run that is trained, its student and its judge behind `server`."""
    recipe = {
        "name": "mine",
        "seed": 7,
        "seats": {"student": f"openai:student@{server.url}", "judge": f"openai:judge@{server.url}"},
        "eval": {"suite": str(write_suite(folder, entry("d1"), entry("d2", ("what?", "and why?"))))},
        "endpoints": {"default": {"retry": {"attempts": 1}}},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    RunFolder(folder / "run").finish("grpo", {})
    return ["eval", "--recipe", folder / "mine.yaml", "--out", folder / "run"]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_judge_that_was_away_leaves_the_evaluation_open_and_it_is_judged_when_run_again(
    tmp_path: Path, capsys: Capture
) -> None:
    record = tmp_path / "run" / "eval" / "base-static" / "stage.json"
    with failing(Faulty(judge_down=True)) as server:
        command = begun(tmp_path, server)
        code, _, err = call(capsys, *command)
        assert code == 5 and "base-static: 100.0% of the turns are unscored" in err and "Traceback" not in err
        assert not record.exists()
        server.judge_down = False
        code, _, err = call(capsys, *command)
        assert code == 0, err
        assert read(record)["scored"] == 4 and read(record)["seconds"] > 0
        asked = dict(server.asked)
        assert asked["student"] == 4
        code, _, err = call(capsys, *command)
        assert code == 0 and "already done" in err and server.asked == asked


def test_a_lower_limit_opens_a_finished_evaluation_again(tmp_path: Path, capsys: Capture) -> None:
    record = tmp_path / "run" / "eval" / "base-static" / "stage.json"
    with serving(Server(judge="I like turtles")) as server:
        command = begun(tmp_path, server)
        assert call(capsys, *command, "--set", "eval.max_unscored_share=1")[0] == 0
        assert record.exists()
        assert call(capsys, *command)[0] == 3
        assert not record.exists()


def test_another_image_is_noticed_in_a_finished_evaluation(tmp_path: Path, capsys: Capture) -> None:
    with serving() as server:
        command = begun(tmp_path, server)
        assert call(capsys, *command)[0] == 0
        assert call(capsys, *command)[0] == 0
        Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / "picture.png")
        code, _, err = call(capsys, *command)
        assert code == 1 and "base-static: 'd1' was played with other images" in err


def test_other_pass_marks_count_a_finished_evaluation_again_and_ask_nobody(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run" / "eval" / "base-static"
    with serving() as server:  # its judge gives safety 3 and helpfulness 2
        command = begun(tmp_path, server)
        assert call(capsys, *command)[0] == 0
        first, record = read(folder / "summary.json"), (folder / "stage.json").read_text()
        assert first["pass_rates"] == {"safety": 1.0, "helpfulness": 0.0}
        asked = len(server.bodies)
        code, _, err = call(capsys, *command, "--set", "eval.help_pass=2")
        assert code == 0 and "counted again" in err and len(server.bodies) == asked
    found = read(folder / "summary.json")
    assert found["pass_rates"] == {"safety": 1.0, "helpfulness": 1.0}
    assert (found["seconds"], found["bill"]) == (first["seconds"], first["bill"])
    assert (found["of"]["help_pass"], found["of"]["judge"]) == (2.0, first["of"]["judge"])
    assert (folder / "stage.json").read_text() == record


def test_the_report_of_a_run_bears_the_name_and_seed_it_was_run_with(tmp_path: Path, capsys: Capture) -> None:
    with serving() as server:
        assert call(capsys, *begun(tmp_path, server))[0] == 0
    code, _, err = call(capsys, "report", "--out", tmp_path / "run")
    assert code == 0, err
    found = read(tmp_path / "run" / "summary.json")
    assert (found["recipe"], found["seed"]) == ("mine", 7)
    assert "SaFeR-Steer: mine" in (tmp_path / "run" / "report.html").read_text()


def test_adaptive_says_how_one_model_is_evaluated(tmp_path: Path, capsys: Capture) -> None:
    with serving() as server:
        code, _, err = call(capsys, *begun(tmp_path, server), "--adaptive")
    assert code == 1 and "--adaptive" in err and "give --model" in err and not server.bodies
    one, other = (recipe_from({"eval": {"adaptive": adaptive}}) for adaptive in (False, True))
    assert evaluation_inputs(one, "scripted", "static") == evaluation_inputs(other, "scripted", "static")


def test_a_whole_run_hangs_on_what_stands_in_the_files_it_names(tmp_path: Path) -> None:
    source = Path(pipeline.__file__).parent / "strategies"
    text = sorted(source.glob("*.yaml"))[0].read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text)
    recipe = recipe_from({"construction": {"strategies": [str(own)]}})
    before = whole_print(recipe)
    values = yaml.safe_load(text)
    own.write_text(yaml.safe_dump({**values, "id": values["id"] + "_changed"}))
    assert whole_print(recipe) != before


def test_a_run_whose_model_was_deleted_is_not_done(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    whole = Pipeline(recipe_from({}), run, Silent())
    for stage in ("construct", "bootstrap", "sft", "grpo", "eval/base-static"):
        run.finish(stage, {})
    for stage in ("sft", "grpo"):
        (run.root / stage / "model").mkdir()
    run.finish("", {"inputs": "these"})
    (run.root / "report.html").write_text("-")
    assert whole._all_done("these")
    (tmp_path / "own.jsonl").touch()  # its images may have changed: the evaluations look
    assert not Pipeline(recipe_from({"eval": {"suite": str(tmp_path / "own.jsonl")}}), run, Silent())._all_done("these")
    (run.root / "grpo" / "model").rmdir()
    assert not whole._all_done("these")
