"""The recipe in verl's words, without verl: every hyperparameter goes somewhere, and what cannot is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from people import script
from safer_steer.cli import RECIPES
from safer_steer.config import GrpoConfig, Recipe, load_recipe, recipe_from
from safer_steer.dialogue import Script, ScriptKind
from safer_steer.errors import ConfigError
from safer_steer.reward import Normalise
from safer_steer.train.schedule import scripts_of_step
from safer_steer.train.verl.data import write_rl_data
from safer_steer.train.verl.settings import ELSEWHERE, REFUSED, check_recipe, sft_config, verl_config

PLACES = {"model": Path("/m"), "data": Path("/d.parquet"), "run": Path("/r"), "loop": Path("/l.yaml")}
RECIPE_NAMES = ("qwen2_5_vl_3b_8gpu", "qwen2_5_vl_7b_8gpu")


def recipe(*overrides: str) -> Recipe:
    return recipe_from({"grpo": {"lora": None, "dtype": "bfloat16"}}, overrides)


ESTIMATOR = {"shaping": "tcsr", "alpha": 0.3, "discount": 1.0, "divide_by_std": False}

CHANGED = {
    "learning_rate": (3e-6, "actor_rollout_ref.actor.optim.lr", 3e-6),
    "decay": (True, "actor_rollout_ref.actor.optim.lr_scheduler_type", "cosine"),
    "steps": (7, "trainer.total_training_steps", 7),
    "seeds_per_step": (24, "data.train_batch_size", 24),
    "samples": (3, "actor_rollout_ref.rollout.n", 3),
    "beta": (0.25, "actor_rollout_ref.actor.kl_loss_coef", 0.25),
    "clip": (0.3, "actor_rollout_ref.actor.clip_ratio_high", 0.3),
    "updates_per_batch": (2, "actor_rollout_ref.actor.ppo_epochs", 2),
    "micro_batch": (5, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", 5),
    "weight_decay": (0.02, "actor_rollout_ref.actor.optim.weight_decay", 0.02),
    "max_grad_norm": (0.5, "actor_rollout_ref.actor.optim.clip_grad", 0.5),
    "max_length": (4096, "actor_rollout_ref.rollout.max_model_len", 4096),
    "max_tokens": (100, "data.max_response_length", 100),
    "temperature": (0.7, "actor_rollout_ref.rollout.temperature", 0.7),
    "credit": ("turn", "algorithm.adv_estimator", "safer_steer_turn"),
    "shaping": ("none", "+algorithm.safer_steer", ESTIMATOR | {"shaping": "none"}),
    "alpha": (0.4, "+algorithm.safer_steer", ESTIMATOR | {"alpha": 0.4}),
    "discount": (0.5, "+algorithm.safer_steer", ESTIMATOR | {"discount": 0.5}),
    "divide_by_std": (True, "+algorithm.safer_steer", ESTIMATOR | {"divide_by_std": True}),
    "normalise": ("paper", "actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum"),
    "old_policy": ("rollout", "algorithm.rollout_correction.bypass_mode", True),
    "gradient_checkpointing": (True, "actor_rollout_ref.model.enable_gradient_checkpointing", True),
    "dtype": ("bfloat16", "actor_rollout_ref.rollout.dtype", "bfloat16"),
    "checkpoint_every": (9, "trainer.save_freq", 9),
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_hyperparameter_reaches_verl(key: str) -> None:
    value, place, expected = CHANGED[key]
    assert verl_config(recipe(f"grpo.{key}={value}"), **PLACES)[place] == expected


def test_no_hyperparameter_is_forgotten() -> None:
    assert set(GrpoConfig.model_fields) == set(CHANGED) | ELSEWHERE | set(REFUSED)


@pytest.mark.parametrize(
    "overrides, where",
    [
        (["grpo.lora={rank: 8}"], "grpo.lora"),
        (["grpo.probe_every=5"], "grpo.probe_every"),
        (["grpo.average_last=2"], "grpo.average_last"),
        (["grpo.tutor_price={prompt: 1, completion: 2}"], "grpo.tutor_price"),
        (["grpo.dtype=float32"], "grpo.dtype"),
        (["grpo.seeds_per_step=3", "grpo.samples=5"], "grpo.seeds_per_step"),
        (["cluster.tensor_parallel=3"], "cluster.tensor_parallel"),
        (["cluster.sequence_parallel=5"], "cluster.sequence_parallel"),
        (["grpo.max_length=512"], "grpo.max_length"),
        (["cluster.max_prompt_length=10240"], "cluster.max_prompt_length"),
        (["cluster.rollout_nodes=1"], "cluster"),
        (["cluster.mode=separate_async"], "cluster"),
        (["seats.tutor=embedded"], "cluster.tutors"),
        (["cluster.tutors=['local:/a']"], "cluster.tutors"),
    ],
)
def test_what_verl_cannot_do_is_refused(overrides: list[str], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_recipe(recipe(*overrides))
    assert error.value.where == where and error.value.what


@pytest.mark.parametrize("key", ["actor_rollout_ref.actor.optim.lr", "data", "+algorithm.safer_steer.alpha"])
def test_extra_keys_do_not_undo_the_recipe(key: str) -> None:
    with pytest.raises(ConfigError, match="follows from the recipe"):
        verl_config(recipe(f"cluster.extra={{'{key}': 1}}"), **PLACES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_both_policies_and_the_servers_compute_in_the_recipe_s_dtype(dtype: str) -> None:
    keys = verl_config(recipe(f"grpo.dtype={dtype}", "cluster.attention=sdpa"), **PLACES)
    policy, reference = (keys[f"+actor_rollout_ref.{part}.fsdp_config.mixed_precision"] for part in ("actor", "ref"))
    assert policy == reference and policy["param_dtype"] == keys["actor_rollout_ref.rollout.dtype"] == dtype
    settings = recipe_from({"sft": {"lora": None, "dtype": dtype}, "cluster": {"attention": "sdpa"}})
    keys = sft_config(settings, model=Path("/m"), data=Path("/d"), run=Path("/r"), dialogues=100)
    assert keys["+engine.mixed_precision"]["param_dtype"] == dtype


def test_extra_keys_are_passed_on() -> None:
    keys = verl_config(recipe("cluster.extra={'actor_rollout_ref.rollout.max_num_seqs': 64}"), **PLACES)
    assert keys["actor_rollout_ref.rollout.max_num_seqs"] == 64
    settings = recipe_from(
        {"sft": {"lora": None, "dtype": "bfloat16"}, "cluster": {"sft_extra": {"data.num_workers": 1}}}
    )
    keys = sft_config(settings, model=Path("/m"), data=Path("/d"), run=Path("/r"), dialogues=100)
    assert keys["data.num_workers"] == 1


def test_extra_keys_do_not_undo_sft_s_recipe() -> None:
    settings = recipe_from({"sft": {"lora": None, "dtype": "bfloat16"}, "cluster": {"sft_extra": {"optim.lr": 1}}})
    with pytest.raises(ConfigError, match="follows from the recipe") as error:
        sft_config(settings, model=Path("/m"), data=Path("/d"), run=Path("/r"), dialogues=100)
    assert error.value.where == "cluster.sft_extra"


def test_an_unknown_key_of_the_section_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'cluster\.gpus'"):
        recipe("cluster.gpus=8")


def test_beta_zero_needs_no_reference() -> None:
    keys = verl_config(recipe("grpo.beta=0"), **PLACES)
    assert keys["actor_rollout_ref.actor.use_kl_loss"] is False


def test_dr_grpo_divides_by_the_longest_dialogue() -> None:
    keys = verl_config(recipe("grpo.normalise=dr_grpo", "grpo.max_tokens=100", "grpo.max_turns=4"), **PLACES)
    assert keys["actor_rollout_ref.actor.loss_scale_factor"] == 400


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_the_paper_s_recipes_are_the_paper_s(name: str) -> None:
    settings = load_recipe(RECIPES / f"{name}.yaml")
    check_recipe(settings)
    grpo, sft = settings.grpo, settings.sft
    assert (grpo.learning_rate, grpo.seeds_per_step, grpo.samples, grpo.beta) == (1e-5, 64, 5, 0.1)
    assert (grpo.max_length, grpo.micro_batch, grpo.weight_decay, grpo.alpha) == (10240, 2, 0.01, 0.3)
    assert (grpo.normalise, grpo.divide_by_std, grpo.steps * grpo.seeds_per_step) == (Normalise.PAPER, False, 1984)
    assert (sft.learning_rate, sft.batch_size, sft.epochs, sft.weight_decay, sft.max_length) == (
        1e-5,
        16,
        2,
        0.01,
        32768,
    )


def test_sft_runs_as_many_steps_as_on_one_machine() -> None:
    settings = recipe_from({"sft": {"lora": None, "dtype": "bfloat16", "batch_size": 16, "epochs": 2}})
    keys = sft_config(settings, model=Path("/m"), data=Path("/d"), run=Path("/r"), dialogues=100)
    assert (keys["trainer.total_training_steps"], keys["trainer.total_epochs"]) == (13, 3)


@pytest.mark.parametrize("override", ["sft.lora={rank: 8}", "sft.batch_size=12", "sft.batch_size=104"])
def test_sft_refuses_what_verl_cannot_do(override: str) -> None:
    settings = recipe_from({"sft": {"lora": None, "dtype": "bfloat16"}}, [override])
    with pytest.raises(ConfigError):
        sft_config(settings, model=Path("/m"), data=Path("/d"), run=Path("/r"), dialogues=100)


def test_the_data_are_the_single_machine_engine_s_steps(tmp_path: Path) -> None:
    pool = [
        script("a", "b", id=f"s{n}", kind=ScriptKind.BENIGN if n % 3 == 0 else ScriptKind.RED_TEAM) for n in range(7)
    ]
    settings = recipe("grpo.steps=3", "grpo.seeds_per_step=8", "grpo.samples=5", "cluster.refills=9")
    path = tmp_path / "train.parquet"
    assert write_rl_data(path, pool, settings) == 40  # 3 steps and 2 to refill from, 8 each
    rows = [Script.from_json(row) for row in pq.read_table(path)["script"].to_pylist()]
    for step in range(1, 6):
        assert rows[8 * (step - 1) : 8 * step] == scripts_of_step(pool, step, 8, 0.25, 0)


def test_the_data_hold_nothing_that_verl_takes_for_an_image(tmp_path: Path) -> None:
    write_rl_data(tmp_path / "d.parquet", [script("see <image> <|im_end|>")], recipe("grpo.steps=1"))
    row = pq.read_table(tmp_path / "d.parquet").to_pylist()[0]
    assert row["prompt"][0]["content"] == "see < image> < |im_end|>"
    assert Script.from_json(row["script"]).turns[0].text == "see <image> <|im_end|>"
