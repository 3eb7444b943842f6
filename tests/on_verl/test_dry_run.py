"""What `--dry-run --engine verl` prints of the recipes in the paper's setting: resolved and validated by verl."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("verl") is None:
    pytest.skip("verl is not installed; `make test-verl` has it", allow_module_level=True)

import yaml

from safer_steer.cli import RECIPES
from safer_steer.config import load_recipe
from safer_steer.errors import ConfigError
from safer_steer.run_folder import RunFolder
from safer_steer.train.verl.stage import dry_run_text

RECIPE_NAMES = ("qwen2_5_vl_3b_8gpu", "qwen2_5_vl_7b_8gpu")


def dry_run(stage: str, name: str, out: Path, *overrides: str) -> dict[str, Any]:
    """The configuration, which leaves nothing to be resolved and wrote nothing."""
    text = dry_run_text(stage, load_recipe(RECIPES / f"{name}.yaml", overrides), RunFolder(out))
    assert "${" not in text and not out.exists()
    return dict(yaml.safe_load(text))


def at(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_grpo_resolves_and_verl_accepts_it(name: str, tmp_path: Path) -> None:
    config = dry_run("grpo", name, tmp_path / "run")
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


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_sft_resolves(name: str, tmp_path: Path) -> None:
    config = dry_run("sft", name, tmp_path / "run")
    expected = {
        "optim.lr": 1e-5,
        "data.train_batch_size": 16,
        "data.max_length": 32768,
        "engine.mixed_precision.param_dtype": "bfloat16",
        "trainer.total_training_steps": 1617,  # two epochs of the paper's 12,934 dialogues
    }
    assert {key: at(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    "extra, what",
    [
        ("actor_rollout_ref.rollout.no_such_key: 1", "no_such_key"),
        ("actor_rollout_ref.rollout.log_prob_micro_batch_size: 4", "verl refuses the configuration"),
    ],
)
def test_what_verl_does_not_know_or_allow_is_an_error(extra: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        dry_run("grpo", RECIPE_NAMES[0], tmp_path / "run", f"cluster.extra={{{extra}}}")
