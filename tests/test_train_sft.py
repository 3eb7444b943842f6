"""Supervised fine-tuning with a tiny student: it learns the answers, resumes exactly, and trains nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.actors.local import DialogueTokenizer, LocalModel
from safer_steer.dialogue import Rollout
from safer_steer.errors import StageError, StorageError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.train import sft
from safer_steer.train.checkpoint import Checkpoint
from safer_steer.train.policy import Policy, descend
from safer_steer.train.rates import rate_share
from safer_steer.train.sft import SftStep, chosen, examples_of, run_sft
from tiny_training import Killed, model_folder, tiny_recipe, write_kept
from tiny_vlm import END, IMAGE, tiny_processor


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def run_in(root: Path) -> RunFolder:
    run = RunFolder(root)
    write_kept(run)
    return run


def lines(run: RunFolder) -> list[SftStep]:
    return list(read_records(run.root / "sft" / "metrics.jsonl", SftStep))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all"])
def test_a_file_that_is_no_checkpoint_is_named_and_said_to_be_deleted(
    tmp_path: Path, start: Path, content: bytes
) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    policy = Policy.load(start, tiny_recipe().sft)
    with pytest.raises(StorageError, match=r"state\.pt.*is not a checkpoint.*delete it"):
        Checkpoint(path).restore(policy, torch.optim.AdamW(policy.trainable.values()))


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_says_what_to_do(start: Path) -> None:
    policy = Policy.load(start, tiny_recipe().sft)
    before = policy.state()
    for parameter in policy.trainable.values():
        parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.raises(StageError, match=r"lower sft\.learning_rate, delete the folder sft"):
        descend(policy, torch.optim.AdamW(policy.trainable.values()), 1.0, "sft")
    assert all(torch.equal(value, before[name]) for name, value in policy.state().items())


def test_only_answers_are_trained_and_the_picture_is_there(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    rollouts = list(read_records(tmp_path / "bootstrap" / "kept.jsonl", Rollout))
    tokenizer = DialogueTokenizer.of(tiny_processor(), run.images)
    examples = examples_of(rollouts, tokenizer, tiny_recipe())
    two_turns = examples[1]
    answers = [token for token, mine in zip(two_turns.ids, two_turns.mask, strict=True) if mine]
    assert answers == [*tokenizer.encode("ee e"), END, *tokenizer.encode("eeee"), END]
    assert [example.ids.count(IMAGE) for example in examples] == [16, 16, 16, 0]
    assert [len(example.images) for example in examples] == [1, 1, 1, 0]


def test_what_does_not_fit_loses_its_last_turns(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    rollouts = list(read_records(tmp_path / "bootstrap" / "kept.jsonl", Rollout))
    tokenizer = DialogueTokenizer.of(tiny_processor(), run.images)
    full = examples_of(rollouts, tokenizer, tiny_recipe())
    limit = len(full[1].ids) - 1
    cut = examples_of(rollouts, tokenizer, tiny_recipe(sft={"max_length": limit}))
    assert max(len(example.ids) for example in cut) <= limit
    assert cut[1].ids == full[1].ids[: len(cut[1].ids)] and cut[1].ids[-1] == END
    assert examples_of(rollouts, tokenizer, tiny_recipe(sft={"max_length": 5})) == []
    with pytest.raises(StageError, match="length limit"):
        run_sft(tiny_recipe(sft={"max_length": 5}), run, model_folder(tmp_path), Silent())


def test_it_learns_and_the_result_is_a_model(tmp_path: Path, start: Path) -> None:
    run = run_in(tmp_path)
    result = run_sft(tiny_recipe(), run, start, Silent())
    assert result["steps"] == 16 == len(lines(run))
    assert result["loss_last"] < 0.5 * result["loss_first"]
    LocalModel.load(tmp_path / "sft" / "model")
    assert run_sft(tiny_recipe(), run, start, Silent()) == result


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = run_in(tmp_path / "whole"), run_in(tmp_path / "cut")
    run_sft(tiny_recipe(), whole, start, Silent())
    calls = Counter[str]()
    real = sft.update

    def dying(*args: object) -> tuple[float, float]:
        calls["update"] += 1
        if calls["update"] == 13:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "update", dying)
        with pytest.raises(Killed):
            run_sft(tiny_recipe(), cut, start, Silent())
    assert len(lines(cut)) == 12
    run_sft(tiny_recipe(), cut, start, Silent())
    assert [line.step for line in lines(cut)] == list(range(1, 17))
    assert [(line.loss, line.grad_norm) for line in lines(cut)] == [
        (line.loss, line.grad_norm) for line in lines(whole)
    ]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_every_epoch_shows_every_dialogue_once(count: int, size: int, seed: int) -> None:
    steps = count  # size whole epochs
    seen = Counter(index for step in range(1, steps + 1) for index in chosen(step, count, size, seed))
    assert seen == dict.fromkeys(range(count), size)


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_learning_rate_stays_between_nothing_and_all(total: int, warmup: float) -> None:
    rates = [rate_share(step, total, warmup) for step in range(1, total + 1)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1
