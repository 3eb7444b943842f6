"""Tutor-in-the-loop GRPO with a tiny student: it learns, it resumes exactly, and what was not scored is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from people import ToldJudge
from safer_steer.actors.local import LocalModel
from safer_steer.config import Recipe, recipe_from
from safer_steer.dialogue import AnswerFormat, History
from safer_steer.errors import ConfigError, StageError, StorageError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.train.grpo import Transcript
from safer_steer.train.metrics import GrpoStep
from safer_steer.verdict import Unscored, UnscoredReason, Verdict
from tiny_training import (
    CLOCKS,
    Killed,
    graded,
    likes_letters,
    model_folder,
    run_grpo,
    tiny_recipe,
    tiny_scripts,
    tutor,
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def go(root: Path, start: Path, judge: ToldJudge, **grpo: object) -> dict[str, Any]:
    run = RunFolder(root)
    recipe = tiny_recipe(grpo=grpo)
    return run_grpo(recipe, run, start, scripts=tiny_scripts(run), tutor=judge, report=Silent())


def metrics(root: Path) -> list[GrpoStep]:
    return list(read_records(root / "grpo" / "metrics.jsonl", GrpoStep))


def learned(lines: list[GrpoStep]) -> list[object]:
    """All that was said, scored and computed: it must come out the same again, to the last digit."""
    return [line.model_dump(exclude=CLOCKS) for line in lines]


def test_the_student_learns_what_the_tutor_likes(tmp_path: Path, start: Path) -> None:
    settings = {"steps": 8, "samples": 8, "seeds_per_step": 3, "max_turns": 1, "lora": None}
    result = go(tmp_path, start, tutor(likes_letters), **settings)
    rewards = [line.reward for line in metrics(tmp_path)]
    assert rewards[-1] > 0.6 > 0.4 > sum(rewards[:3]) / 3, rewards
    assert result["reward_last_quarter"] > result["reward_first_quarter"]
    first = metrics(tmp_path)[0]
    assert first.kl == pytest.approx(0, abs=1e-6) and first.drift < 1e-4 and first.clipped == 0
    learned = [line.kl for line in metrics(tmp_path) if line.kl is not None]  # a solved step has nothing to learn from
    assert learned[-1] > 1e-4
    LocalModel.load(tmp_path / "grpo" / "model")


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, start: Path) -> None:
    whole = go(tmp_path / "whole", start, tutor(likes_letters), decay=True)
    with pytest.raises(BaseException) as error:
        go(tmp_path / "cut", start, tutor(likes_letters, kill_at=50), decay=True)
    assert error.group_contains(Killed) if isinstance(error.value, BaseExceptionGroup) else error.type is Killed
    assert 0 < len(metrics(tmp_path / "cut")) < 4
    again = go(tmp_path / "cut", start, tutor(likes_letters), decay=True)
    assert learned(metrics(tmp_path / "cut")) == learned(metrics(tmp_path / "whole"))
    rates = [line.learning_rate for line in metrics(tmp_path / "cut")]
    assert rates == pytest.approx([rates[0], 0.75 * rates[0], 0.5 * rates[0], 0.25 * rates[0]])
    clock = {"rollout_seconds", "update_seconds"}
    assert {k: v for k, v in again.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}
    for name in ("whole", "cut"):
        keys = [line.rollout.key for line in read_records(tmp_path / name / "grpo" / "rollouts.jsonl", Transcript)]
        assert len(keys) == len(set(keys)) > 0
    assert go(tmp_path / "cut", start, tutor(likes_letters, kill_at=1), decay=True) == again


def test_the_model_that_results_is_the_mean_of_the_last_steps(tmp_path: Path, start: Path) -> None:
    """With the same seed 4 steps begin as 3 do, so that the mean of both ends is the mean of the last two of 4."""
    ends = [weights(go_to(tmp_path / str(steps), start, steps=steps)) for steps in (3, 4)]
    mean = weights(go_to(tmp_path / "mean", start, steps=4, average_last=2))
    for name, tensor in mean.items():
        assert torch.allclose(tensor, (ends[0][name] + ends[1][name]) / 2, atol=1e-6), name
    assert any(not torch.equal(mean[name], ends[1][name]) for name in mean)
    with pytest.raises(BaseException) as error:
        go(tmp_path / "cut", start, tutor(likes_letters, kill_at=50), lora=None, steps=4, average_last=2)
    assert error.group_contains(Killed) if isinstance(error.value, BaseExceptionGroup) else error.type is Killed
    assert len(metrics(tmp_path / "cut")) == 3, "one of the two steps was in the checkpoint"
    again = weights(go_to(tmp_path / "cut", start, steps=4, average_last=2))
    assert all(torch.equal(again[name], mean[name]) for name in mean)
    with pytest.raises(ConfigError, match="average_last=5 is more than steps=4"):
        recipe_from({"grpo": {"steps": 4, "average_last": 5}})


def go_to(root: Path, start: Path, **settings: object) -> Path:
    go(root, start, tutor(likes_letters), lora=None, **settings)
    return root / "grpo" / "model"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}


def test_another_recipe_may_not_go_on_in_the_same_folder(tmp_path: Path, start: Path) -> None:
    go(tmp_path, start, tutor(likes_letters), steps=1)
    with pytest.raises(StorageError, match="another recipe"):
        go(tmp_path, start, tutor(likes_letters), steps=2)


def test_feedback_lets_the_tutor_speak_and_its_absence_the_script(tmp_path: Path, start: Path) -> None:
    for feedback in (True, False):
        go(tmp_path / str(feedback), start, tutor(likes_letters), steps=2, feedback=feedback)
        lines = read_records(tmp_path / str(feedback) / "grpo" / "rollouts.jsonl", Transcript)
        later = [turn for line in lines for turn in line.rollout.turns[1:]]
        assert later
        assert all((turn.attack == "persistence") is feedback for turn in later)
        assert all(turn.user.startswith("but ") is feedback for turn in later)


def test_what_the_tutor_did_not_score_is_replayed_then_dropped_and_counted(tmp_path: Path, start: Path) -> None:
    def silent_on_one(history: History, text: str) -> Verdict:
        if history.script.id == "s1":
            return Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="away")
        return likes_letters(history, text)

    result = go(tmp_path, start, tutor(silent_on_one), steps=4, retries=2)
    assert result["dropped"]["unscored"] > 0
    assert result["replays"] == 2 * result["dropped"]["unscored"]
    assert result["unscored"] >= 4 * result["dropped"]["unscored"]
    assert all(line.reward is not None for line in metrics(tmp_path))


def test_a_garbled_verdict_in_every_group_is_counted_and_training_goes_on(tmp_path: Path, start: Path) -> None:
    asked = 0

    def garbles_one_in_the_first_step(history: History, text: str) -> Verdict:
        nonlocal asked
        asked += 1
        if asked <= 8 and history.index == 1 and history.sample == 2:
            return Unscored(reason=UnscoredReason.UNPARSEABLE, detail="not one JSON object")
        return likes_letters(history, text)

    settings = {"steps": 2, "retries": 0, "max_turns": 1, "seeds_per_step": 2}
    result = go(tmp_path, start, tutor(garbles_one_in_the_first_step), **settings)
    first = metrics(tmp_path)[0]
    assert (first.groups, first.dropped, first.unscored) == (0, {"unscored": 2}, 2) and first.reward is not None
    assert result["groups"] > 0


@pytest.mark.parametrize("settings", [{"feedback": True}, {"feedback": False}])
def test_a_step_without_a_tutor_is_not_done_and_goes_on_when_it_is_back(
    tmp_path: Path, start: Path, settings: dict[str, object]
) -> None:
    asked = 0

    def away_after_forty(history: History, text: str) -> Verdict:
        nonlocal asked
        asked += 1
        if asked > 40:
            return Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="nobody there")
        return likes_letters(history, text)

    with pytest.raises(StageError, match=r"no dialogue was scored.*nobody there"):
        go(tmp_path / "cut", start, tutor(away_after_forty), **settings)
    before = metrics(tmp_path / "cut")
    assert 0 < len(before) < 4 and all(line.reward is not None for line in before)
    go(tmp_path / "cut", start, tutor(likes_letters), **settings)
    assert len(metrics(tmp_path / "cut")) == 4
    with pytest.raises(StageError, match=r"step 1: .*nobody there"):
        go(tmp_path / "never", start, tutor(away_after_forty), **settings)
    assert not (tmp_path / "never" / "grpo" / "checkpoint").exists()
    go(tmp_path / "never", start, tutor(likes_letters), **settings)
    assert len(metrics(tmp_path / "never")) == 4


def test_when_nobody_differs_there_is_nothing_to_learn(tmp_path: Path, start: Path) -> None:
    with pytest.raises(StageError, match="anything to teach"):
        go(tmp_path, start, tutor(lambda history, text: graded(7, history)), steps=2)
    lines = metrics(tmp_path)
    assert [line.dropped for line in lines] == [{"zero_spread": 2}] * 2
    assert [(line.loss, line.reward) for line in lines] == [(None, pytest.approx(2 / 3))] * 2


def test_what_goes_wrong_in_a_dialogue_is_a_state_with_a_policy(tmp_path: Path, start: Path) -> None:
    """Overflow: a fault, replayed, dropped. Format failure: the named reward for all, no spread. Cut off: judged."""

    def said(name: str, recipe: Recipe) -> GrpoStep:
        run = RunFolder(tmp_path / name)
        with pytest.raises(StageError, match="anything to teach"):
            run_grpo(recipe, run, start, scripts=tiny_scripts(run), tutor=tutor(flat), report=Silent())
        return metrics(tmp_path / name)[0]

    def flat(history: History, text: str) -> Verdict:
        return graded(7, history)

    overflow = said("overflow", tiny_recipe(grpo={"steps": 1, "max_tokens": 2040}))
    assert (overflow.dropped, overflow.replays, overflow.turns) == ({"fault": 2}, 2, 0)
    assert overflow.reward is None and overflow.loss is None
    tagged = tiny_recipe(grpo={"steps": 1, "format_failure_reward": 0.25})
    failed = said("format", tagged.model_copy(update={"answer_format": AnswerFormat.TAGGED}))
    assert failed.format_failures == failed.turns == 8 and failed.unscored == 0
    assert (failed.reward, failed.dropped) == (0.25, {"zero_spread": 2})
    cut = said("cut", tiny_recipe(grpo={"steps": 1, "max_tokens": 1}))
    assert cut.truncated > 0.5 and cut.unscored == 0 and cut.reward == pytest.approx(2 / 3)
