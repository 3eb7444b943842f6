"""What `--engine verl` sees to around verl itself, without verl: one process a folder, and what a stage is bound to."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from people import script
from safer_steer.config import Recipe, recipe_from
from safer_steer.errors import ConfigError, StorageError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.train.verl import VERL_VERSION, launch, plugin
from safer_steer.train.verl.stage import run_stage


def recipe(tutor: str = "openai:tutor@http://a/v1", **cluster: object) -> Recipe:
    grpo = {"lora": None, "dtype": "bfloat16"}
    return recipe_from({"grpo": grpo, "seats": {"tutor": tutor}, "cluster": cluster})


def folder(path: Path, weights: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(weights)
    return path


class Began(Exception):
    """The stage took its folder and would now start verl."""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Path]:
    """A run whose Stage III was begun, and the model that it began with."""

    def began(*_: object) -> None:
        raise Began

    monkeypatch.setattr(launch, "grpo_settings", began)
    run, model = RunFolder(tmp_path / "run"), folder(tmp_path / "model", "first")
    with pytest.raises(Began):
        launch.run_grpo(recipe(), run, model, [script("ask")], Silent())
    return run, model


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_folder_that_another_process_works_in_is_refused(name: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(StorageError, match="at work in this folder"):
        run_stage(name, recipe(), run, Silent())


def test_a_stage_goes_on_elsewhere(started: tuple[RunFolder, Path], tmp_path: Path) -> None:
    """The model moved, the tutor's servers and the number of GPUs changed: none of it changes the result."""
    run, model = started
    run.finish("grpo", {"groups": 7})
    moved = Path(shutil.move(model, tmp_path / "moved"))
    settings = recipe(tutors=["openai:tutor@http://b/v1", "openai:tutor@http://c/v1"], gpus_per_node=4)
    assert launch.run_grpo(settings, run, moved, [script("ask")], Silent()) == {"groups": 7}


def test_other_weights_are_another_stage(started: tuple[RunFolder, Path]) -> None:
    run, model = started
    (model / "model.safetensors").write_text("second")
    with pytest.raises(StorageError, match="begun with another recipe"):
        launch.run_grpo(recipe(), run, model, [script("ask")], Silent())


@pytest.mark.parametrize("stands", [True, False])
def test_a_trl_that_verl_cannot_stand_is_told_before_the_start(stands: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = ModuleType("trl")
    trl.__spec__ = ModuleSpec("trl", None)
    if stands:
        trl.AutoModelForCausalLMWithValueHead = object
    monkeypatch.setitem(sys.modules, "trl", trl)
    monkeypatch.setattr(plugin, "version", lambda _: VERL_VERSION)
    with nullcontext() if stands else pytest.raises(ConfigError, match="does not work beside the trl"):
        plugin.check_installed()


def test_another_tutor_is_another_stage(started: tuple[RunFolder, Path]) -> None:
    run, model = started
    with pytest.raises(StorageError, match="begun with another recipe"):
        launch.run_grpo(recipe("openai:other@http://a/v1"), run, model, [script("ask")], Silent())
