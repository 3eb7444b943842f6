"""`--dry-run --engine verl` on the paper's recipes: verl's own configuration, resolved and validated by verl itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("verl") is None:
    pytest.skip("verl is not installed; `make test-verl` has it", allow_module_level=True)

import yaml

from command import call
from safer_steer.cli import RECIPES

RECIPE_NAMES = ("qwen2_5_vl_3b_8gpu", "qwen2_5_vl_7b_8gpu")


def dry_run(capsys: pytest.CaptureFixture[str], stage: str, name: str, out: Path, *more: str) -> tuple[int, str, str]:
    recipe = RECIPES / f"{name}.yaml"
    return call(capsys, stage, "--engine", "verl", "--recipe", recipe, "--out", out, "--dry-run", *more)


def at(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_grpo_resolves_and_verl_accepts_it(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = dry_run(capsys, "grpo", name, tmp_path / "run")
    assert code == 0, err
    config = yaml.safe_load(out)
    expected = {
        "algorithm.adv_estimator": "safer_steer_sum",
        "algorithm.safer_steer.alpha": 0.3,
        "actor_rollout_ref.actor.optim.lr": 1e-5,
        "actor_rollout_ref.actor.kl_loss_coef": 0.1,
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "bfloat16",
        "actor_rollout_ref.rollout.n": 5,
        "actor_rollout_ref.rollout.name": "vllm",
        "data.train_batch_size": 64,
        "trainer.total_training_steps": 31,
        "trainer.n_gpus_per_node": 8,
        "ray_kwargs.ray_init.runtime_env.env_vars.SAFER_STEER_FROZEN": "vision,projector",
    }
    assert {key: at(config, key) for key in expected} == expected
    assert "${" not in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_sft_resolves(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = dry_run(capsys, "sft", name, tmp_path / "run")
    assert code == 0, err
    config = yaml.safe_load(out)
    expected = {
        "optim.lr": 1e-5,
        "data.train_batch_size": 16,
        "data.max_length": 32768,
        "engine.mixed_precision.param_dtype": "bfloat16",
        "trainer.total_training_steps": 1617,  # two epochs of the paper's 12,934 dialogues
    }
    assert {key: at(config, key) for key in expected} == expected
    assert "${" not in out and not (tmp_path / "run").exists()


def test_what_verl_does_not_know_or_allow_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    unknown = "cluster.extra={actor_rollout_ref.rollout.no_such_key: 1}"
    code, _, err = dry_run(capsys, "grpo", RECIPE_NAMES[0], tmp_path, "--set", unknown)
    assert code == 1 and "no_such_key" in err
    twice = "cluster.extra={actor_rollout_ref.rollout.log_prob_micro_batch_size: 4}"
    code, out, err = dry_run(capsys, "grpo", RECIPE_NAMES[0], tmp_path, "--set", twice)
    assert code == 1 and "verl refuses the configuration" in err and not out
