"""The recipe as verl's configuration: one recipe YAML for both engines, and an error for what verl cannot do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safer_steer.actors.specs import SpecKind, parse_spec
from safer_steer.cluster import Mode
from safer_steer.config import Dtype, GrpoConfig, OldPolicy, Recipe, SftConfig, SftEngine
from safer_steer.errors import ConfigError
from safer_steer.reward import Normalise
from safer_steer.train.verl import AGENT
from safer_steer.train.verl.advantage import estimator_name

AGGREGATION = {
    Normalise.PAPER: "seq-mean-token-sum",
    Normalise.GRPO: "seq-mean-token-mean",
    Normalise.DAPO: "token-mean",
    Normalise.DR_GRPO: "seq-mean-token-sum-norm",
}
"""`grpo.normalise` in verl's words."""

ELSEWHERE = {
    "shaping", "alpha", "credit", "discount", "divide_by_std",  # the estimator reads them from `algorithm.safer_steer`
    "weights", "feedback", "format_failure_reward", "retries", "max_turns",  # the agent loop reads the recipe
    "start", "frozen",  # the stage and `engine.FrozenVisionEngine` see to them
    "benign_share", "transcripts_per_step",  # the data are dealt by it; the ledger keeps every transcript
}  # fmt: skip
"""Keys of `grpo` that no key of verl's stands for."""


REFUSED = ("average_last", "lora", "probe_every", "probe_scripts", "tutor_price")
"""Keys of `grpo` that only the single-machine engine has; they must stand at null, or at what null makes idle."""


def check_recipe(recipe: Recipe) -> None:
    """Raise `ConfigError` for what the recipe asks and verl cannot give."""
    grpo, cluster = recipe.grpo, recipe.cluster
    gpus = cluster.nodes * cluster.gpus_per_node
    if grpo.lora is not None:
        raise ConfigError("adapters are not supported on verl", where="grpo.lora", hint="set grpo.lora to null")
    if grpo.average_last != 1:
        raise ConfigError("is not supported on verl", where="grpo.average_last", hint="set grpo.average_last to 1")
    for key in ("probe_every", "tutor_price"):
        if getattr(grpo, key) is not None:
            raise ConfigError("is not supported on verl", where=f"grpo.{key}", hint=f"set grpo.{key} to null")
    if grpo.dtype is Dtype.FLOAT32 and cluster.attention.startswith("flash"):
        hint = "set grpo.dtype to bfloat16, or cluster.attention to sdpa"
        raise ConfigError("flash attention computes in bfloat16 only", where="grpo.dtype", hint=hint)
    if grpo.seeds_per_step * grpo.samples % gpus:
        what = f"{grpo.seeds_per_step} x {grpo.samples} dialogues a step do not divide over {gpus} GPUs"
        raise ConfigError(what, where="grpo.seeds_per_step", hint="verl deals the same number to every GPU")
    for key in ("tensor_parallel", "sequence_parallel"):
        if gpus % getattr(cluster, key):
            raise ConfigError(f"{getattr(cluster, key)} does not divide {gpus} GPUs", where=f"cluster.{key}")
    if grpo.max_length <= grpo.max_tokens:
        raise ConfigError("leaves no room for a prompt", where="grpo.max_length", hint="raise it above max_tokens")
    if cluster.max_prompt_length is not None and cluster.max_prompt_length >= grpo.max_length:
        raise ConfigError("leaves no room for an answer", where="cluster.max_prompt_length")
    if (cluster.mode is Mode.SEPARATE) != (cluster.rollout_nodes > 0):
        what = f"mode {cluster.mode} with {cluster.rollout_nodes} rollout nodes"
        raise ConfigError(what, where="cluster", hint="rollout_nodes go with mode: separate_async, and only with it")
    for spec in cluster.tutors or (recipe.seats.tutor,):
        if parse_spec(spec).kind in (SpecKind.LOCAL, SpecKind.EMBEDDED):
            hint = "serve the tutor and name it openai:MODEL@BASE_URL"
            raise ConfigError(f"every one of {cluster.agent_workers} processes would load '{spec}'",
                              where="cluster.tutors", hint=hint)  # fmt: skip


def verl_config(recipe: Recipe, *, model: Path, data: Path, run: Path, loop: Path) -> dict[str, Any]:
    """verl's keys for Stage III, dotted; all others keep verl's defaults. Raises `ConfigError`.

    With `grpo.decay`, verl's learning rate falls along a cosine, the single-machine engine's along a line.

    `data` is the parquet of `data.write_rl_data`, `loop` the agent loop's YAML, `run` the run folder.
    """
    check_recipe(recipe)
    cluster = recipe.cluster
    keys: dict[str, Any] = {
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.model.external_lib": "safer_steer.train.verl.engine",
        "actor_rollout_ref.model.use_remove_padding": cluster.remove_padding,
        "+actor_rollout_ref.model.override_config": {"attn_implementation": cluster.attention},
        "data.train_files": str(data),
        "data.val_files": str(data),
        "data.val_max_samples": 1,
        "data.shuffle": False,
        "data.seed": recipe.seed,
        "data.return_raw_chat": True,
        "data.filter_overlong_prompts": False,
        "trainer.project_name": cluster.project,
        "trainer.experiment_name": recipe.name,
        "trainer.logger": list(cluster.trackers),
        "trainer.nnodes": cluster.nodes,
        "trainer.n_gpus_per_node": cluster.gpus_per_node,
        "trainer.default_local_dir": str(run / "grpo" / "checkpoints"),
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.use_v1": True,
        "reward.num_workers": 1,
        "ray_kwargs.ray_init.num_cpus": cluster.cpus,
    }
    if cluster.ray_address is not None:
        keys["+ray_kwargs.ray_init.address"] = cluster.ray_address
    keys |= _learning(recipe.grpo, recipe) | _writing(recipe, loop) | _trainer(recipe)
    return _with_extra(keys, cluster.extra, "cluster.extra")


def _with_extra(keys: dict[str, Any], extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys and the user's own; raises `ConfigError` for one that would undo what the recipe says."""
    ours = {key.lstrip("+") for key in keys}
    for key in extra:
        name = key.lstrip("+")
        if any(name == mine or mine.startswith(f"{name}.") or name.startswith(f"{mine}.") for mine in ours):
            hint = "set the recipe's own key"
            raise ConfigError(f"'{name}' follows from the recipe", where=where, hint=hint)
    return keys | dict(extra)


def _precision(dtype: Dtype) -> dict[str, str]:
    """What FSDP computes in; gradients are reduced in fp32. verl 0.9.1 would compute in bf16 without being told."""
    return {"param_dtype": str(dtype), "reduce_dtype": "float32", "buffer_dtype": "float32"}


def _learning(grpo: GrpoConfig, recipe: Recipe) -> dict[str, Any]:
    """The update: every hyperparameter of `grpo` that is verl's to apply."""
    cluster = recipe.cluster
    actor, ref, offload = "actor_rollout_ref.actor", "actor_rollout_ref.ref", cluster.offload
    keys: dict[str, Any] = {
        "algorithm.adv_estimator": estimator_name(grpo.credit),
        "algorithm.use_kl_in_reward": False,
        "algorithm.norm_adv_by_std_in_grpo": grpo.divide_by_std,
        "+algorithm.safer_steer": {
            "shaping": str(grpo.shaping),
            "alpha": grpo.alpha,
            "discount": grpo.discount,
            "divide_by_std": grpo.divide_by_std,
        },
        "algorithm.rollout_correction.bypass_mode": grpo.old_policy is OldPolicy.ROLLOUT,
        "actor_rollout_ref.model.enable_gradient_checkpointing": grpo.gradient_checkpointing,
        "actor_rollout_ref.rollout.dtype": str(grpo.dtype),
        f"+{actor}.fsdp_config.mixed_precision": _precision(grpo.dtype),
        f"+{ref}.fsdp_config.mixed_precision": _precision(grpo.dtype),
        f"{actor}.strategy": "fsdp2",
        f"{actor}.optim.lr": grpo.learning_rate,
        f"{actor}.optim.weight_decay": grpo.weight_decay,
        f"{actor}.optim.clip_grad": grpo.max_grad_norm,
        f"{actor}.optim.lr_scheduler_type": "cosine" if grpo.decay else "constant",
        f"{actor}.grad_clip": grpo.max_grad_norm,
        f"{actor}.clip_ratio": grpo.clip,
        f"{actor}.clip_ratio_low": grpo.clip,
        f"{actor}.clip_ratio_high": grpo.clip,
        f"{actor}.clip_ratio_c": 1e9,
        f"{actor}.entropy_coeff": 0,
        f"{actor}.use_kl_loss": grpo.beta > 0,
        f"{actor}.kl_loss_coef": grpo.beta,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.loss_agg_mode": AGGREGATION[grpo.normalise],
        f"{actor}.ppo_epochs": grpo.updates_per_batch,
        f"{actor}.ppo_mini_batch_size": grpo.seeds_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": grpo.micro_batch,
        f"{actor}.data_loader_seed": recipe.seed,
        f"{actor}.ulysses_sequence_parallel_size": cluster.sequence_parallel,
        f"{actor}.fsdp_config.param_offload": offload,
        f"{actor}.fsdp_config.optimizer_offload": offload,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.checkpoint.load_contents": ["model", "optimizer", "extra"],
        f"{ref}.log_prob_micro_batch_size_per_gpu": grpo.micro_batch,
        f"{ref}.fsdp_config.param_offload": offload,
        "data.train_batch_size": grpo.seeds_per_step,
    }
    if grpo.normalise is Normalise.DR_GRPO:
        keys[f"{actor}.loss_scale_factor"] = grpo.max_tokens * grpo.max_turns
    return keys


def _writing(recipe: Recipe, loop: Path) -> dict[str, Any]:
    """The rollout servers and the agent loop."""
    grpo, cluster, rollout = recipe.grpo, recipe.cluster, "actor_rollout_ref.rollout"
    prompt = cluster.max_prompt_length
    prompt = grpo.max_length - grpo.max_tokens if prompt is None else prompt
    return {
        "data.max_prompt_length": prompt,
        "data.max_response_length": grpo.max_length - prompt,
        f"{rollout}.name": cluster.rollout,
        f"{rollout}.n": grpo.samples,
        f"{rollout}.temperature": grpo.temperature,
        f"{rollout}.max_model_len": grpo.max_length,
        f"{rollout}.tensor_model_parallel_size": cluster.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": cluster.rollout_memory,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": grpo.micro_batch,
        f"{rollout}.agent.num_workers": cluster.agent_workers,
        f"{rollout}.agent.default_agent_loop": AGENT,
        f"{rollout}.agent.agent_loop_config_path": str(loop),
    }


def _trainer(recipe: Recipe) -> dict[str, Any]:
    """How long, how often saved, and how rollouts and updates take turns."""
    grpo, cluster = recipe.grpo, recipe.cluster
    synchronous = cluster.mode is Mode.SYNC
    keys: dict[str, Any] = {
        "trainer.total_epochs": 1,
        "trainer.total_training_steps": grpo.steps,
        "trainer.save_freq": grpo.checkpoint_every,
        "trainer.max_actor_ckpt_to_keep": 2,
        "trainer.v1.trainer_mode": str(cluster.mode),
        "trainer.v1.sampler.custom_sampler.path": "pkg://safer_steer.train.verl.sampler",
        "trainer.v1.sampler.custom_sampler.name": "SteerReplayBuffer" if synchronous else "SteerReplayBufferAsync",
        "+trainer.v1.sampler.sampler_kwargs.refills": cluster.refills,
        "trainer.v1.sampler.sync_refill_failed_groups": synchronous,
    }
    if not synchronous:
        keys["trainer.v1.sampler.max_off_policy_threshold"] = cluster.max_staleness
    if cluster.mode is Mode.SEPARATE:
        keys["actor_rollout_ref.rollout.nnodes"] = cluster.rollout_nodes
        keys["actor_rollout_ref.rollout.n_gpus_per_node"] = cluster.gpus_per_node
        keys["trainer.v1.separate_async.parameter_sync_step"] = 1
    return keys


def sft_config(recipe: Recipe, *, model: Path, data: Path, run: Path, dialogues: int) -> dict[str, Any]:
    """verl's keys for its SFT trainer, dotted, for that many dialogues. Raises `ConfigError`.

    verl's schedule falls along a cosine; the single-machine engine's along a line. Everything else is the recipe's.
    """
    sft: SftConfig = recipe.sft
    cluster = recipe.cluster
    if sft.lora is not None:
        raise ConfigError("adapters are not supported on verl", where="sft.lora", hint="set sft.lora to null")
    if sft.engine is not SftEngine.LOOP:
        raise ConfigError(f"'{sft.engine}' is an engine of one machine", where="sft.engine", hint="leave it at loop")
    if sft.dtype is Dtype.FLOAT32 and cluster.attention.startswith("flash"):
        hint = "set sft.dtype to bfloat16, or cluster.attention to sdpa"
        raise ConfigError("flash attention computes in bfloat16 only", where="sft.dtype", hint=hint)
    gpus = cluster.nodes * cluster.gpus_per_node
    if sft.batch_size % gpus:
        what = f"batches of {sft.batch_size} do not divide over {gpus} GPUs"
        raise ConfigError(what, where="sft.batch_size", hint="verl deals the same number to every GPU")
    if dialogues < sft.batch_size:
        raise ConfigError(f"{dialogues} dialogues do not fill a batch", where="sft.batch_size", hint="lower it")
    steps = math.ceil(sft.epochs * dialogues / sft.batch_size)
    steps = steps if sft.max_steps is None else min(steps, sft.max_steps)
    keys: dict[str, Any] = {
        "model.path": str(model),
        "model.external_lib": "safer_steer.train.verl.engine",
        "model.use_remove_padding": cluster.remove_padding,
        "+model.override_config": {"attn_implementation": cluster.attention},
        "model.enable_gradient_checkpointing": sft.gradient_checkpointing,
        "engine.strategy": "fsdp2",
        "+engine.mixed_precision": _precision(sft.dtype),
        "engine.param_offload": cluster.offload,
        "engine.optimizer_offload": cluster.offload,
        "engine.ulysses_sequence_parallel_size": cluster.sequence_parallel,
        "optim.lr": sft.learning_rate,
        "optim.weight_decay": sft.weight_decay,
        "optim.lr_warmup_steps_ratio": sft.warmup_share,
        "optim.lr_scheduler_type": "cosine",
        "optim.clip_grad": 1.0,
        "data.train_files": str(data),
        "data.train_batch_size": sft.batch_size,
        "data.micro_batch_size_per_gpu": sft.micro_batch,
        "data.use_dynamic_bsz": False,
        "data.max_length": sft.max_length,
        "data.pad_mode": "no_padding",
        "data.truncation": "error",
        "trainer.project_name": cluster.project,
        "trainer.experiment_name": f"{recipe.name}-sft",
        "trainer.logger": list(cluster.trackers),
        "trainer.seed": recipe.seed,
        "trainer.total_epochs": math.ceil(steps / (dialogues // sft.batch_size)),
        "trainer.total_training_steps": steps,
        "trainer.save_freq": min(sft.checkpoint_every, steps),
        "trainer.max_ckpt_to_keep": 2,
        "trainer.default_local_dir": str(run / "sft" / "checkpoints"),
        "trainer.nnodes": cluster.nodes,
        "trainer.n_gpus_per_node": cluster.gpus_per_node,
        "checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        "checkpoint.load_contents": ["model", "optimizer", "extra"],
    }
    return _with_extra(keys, cluster.sft_extra, "cluster.sft_extra")
