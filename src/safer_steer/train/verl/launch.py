"""`--engine verl`: write what verl needs into the run folder, start stock verl, and take its result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from safer_steer.actors.assistant import system_of
from safer_steer.actors.specs import parse_spec
from safer_steer.config import Recipe
from safer_steer.dialogue import Rollout, Script
from safer_steer.errors import ConfigError, StageError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.store import disk_errors, fingerprint, read_records, write_atomic
from safer_steer.train.verl import AGENT, VERL_VERSION
from safer_steer.train.verl.compose import composed, validated, write_config, yaml_of
from safer_steer.train.verl.data import write_rl_data, write_sft_data
from safer_steer.train.verl.ledger import forget_after, summary
from safer_steer.train.verl.settings import check_recipe, sft_config, verl_config
from safer_steer.weights import weights_print

LOOP = "safer_steer.train.verl.loop.SteerAgentLoop"
PAPER_SFT = 12_934


def environment(frozen: Sequence[str]) -> dict[str, str]:
    """Chooses `engine.FrozenVisionEngine` and tells it what is frozen; set in every process of the run."""
    return {"VERL_ENGINE_VENDOR": "safer_steer", "SAFER_STEER_FROZEN": ",".join(frozen)}


def run_grpo(
    recipe: Recipe, run: RunFolder, model: Path, scripts: Sequence[Script], report: Reporter
) -> dict[str, Any]:
    """Stage III on the cluster: the student in the folder `model` becomes `grpo/model`. Resumes at verl's checkpoint.

    Returns the ledger's counts. Raises `ConfigError` before anything is started, `StageError` when verl fails.
    """
    check_recipe(recipe)
    run.claim("grpo", _grpo_inputs(recipe, model, scripts))
    done = run.finished("grpo")
    if done is not None:
        return done
    folder = run.stage("grpo")
    rows = write_rl_data(folder / "train.parquet", scripts, recipe)
    config = grpo_settings(recipe, run, model)
    validated(config)
    write_config(folder / "verl.yaml", config)
    forget_after(folder / "ledger", saved_step(folder / "checkpoints"))
    report.note(f"grpo: {recipe.grpo.steps} steps over {rows} rows on {recipe.cluster.nodes} nodes; log {folder}")
    _start([sys.executable, "-m", "verl.trainer.main_ppo"], folder, "verl.yaml", environment(recipe.grpo.frozen))
    _take_model(folder, "actor", recipe.grpo.steps)
    result = dict(summary(folder / "ledger"))
    if not result["groups"]:
        hint = "look at `dropped` and `detail` in grpo/ledger/groups-*.jsonl"
        raise StageError("no group ever had anything to teach", where="grpo", hint=hint)
    run.finish("grpo", result)
    return result


def grpo_settings(recipe: Recipe, run: RunFolder, model: Path) -> Any:
    """verl's whole configuration for the recipe; writes the agent loop's YAML and the recipe it names."""
    folder = run.root.absolute() / "grpo"
    copy, loop = folder / "recipe.json", folder / "agent_loop.yaml"
    write_atomic(copy, recipe.model_dump_json(indent=2))
    entry = {"name": AGENT, "_target_": LOOP, "recipe": str(copy), "run": str(run.root.absolute())}
    write_atomic(loop, yaml.safe_dump([entry], sort_keys=False))
    data = folder / "train.parquet"
    keys = verl_config(recipe, model=model.absolute(), data=data, run=run.root.absolute(), loop=loop)
    for name, value in environment(recipe.grpo.frozen).items():
        keys[f"+ray_kwargs.ray_init.runtime_env.env_vars.{name}"] = value
    return composed("ppo_trainer", keys)


def run_sft(recipe: Recipe, run: RunFolder, model: Path, report: Reporter) -> dict[str, Any]:
    """Stage II's training by verl's SFT trainer (FSDP2): `bootstrap/kept.jsonl` to `sft/model`.

    Raises `ConfigError` before anything is started, `StageError` when verl fails.
    """
    if recipe.cluster.nodes > 1:
        hint = "start sft/verl.yaml with `torchrun --nnodes` on every node, or use the LLaMA-Factory export"
        raise ConfigError("SFT is started on one node only", where="cluster.nodes", hint=hint)
    rollouts = list(read_records(run.root / "bootstrap" / "kept.jsonl", Rollout))
    run.claim("sft", _sft_inputs(recipe, model, rollouts))
    done = run.finished("sft")
    if done is not None:
        return done
    folder = run.stage("sft").absolute()
    count = write_sft_data(folder / "train.parquet", rollouts, run.images, recipe)
    keys = sft_config(
        recipe, model=model.absolute(), data=folder / "train.parquet", run=run.root.absolute(), dialogues=count
    )
    config = composed("sft_trainer_engine", keys)
    write_config(folder / "verl.yaml", config)
    steps = int(config.trainer.total_training_steps)
    report.note(f"sft: {steps} steps over {count} dialogues")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    processes = f"--nproc-per-node={recipe.cluster.gpus_per_node}"
    _start(
        [*torchrun, processes, "-m", "verl.trainer.sft_trainer"], folder, "verl.yaml", environment(recipe.sft.frozen)
    )
    _take_model(folder, "", steps)
    result = {"dialogues": count, "steps": steps}
    run.finish("sft", result)
    return result


def dry_run(recipe: Recipe, run: RunFolder, model: Path) -> str:
    """verl's resolved configuration for the recipe, as YAML, after verl's own validation. Writes nothing.

    Raises `ConfigError` for what the recipe or verl refuses.
    """
    folder = run.root.absolute()
    keys = verl_config(
        recipe,
        model=model,
        data=folder / "grpo" / "train.parquet",
        run=folder,
        loop=folder / "grpo" / "agent_loop.yaml",
    )
    for name, value in environment(recipe.grpo.frozen).items():
        keys[f"+ray_kwargs.ray_init.runtime_env.env_vars.{name}"] = value
    config = composed("ppo_trainer", keys)
    validated(config)
    return yaml_of(config)


def dry_run_sft(recipe: Recipe, run: RunFolder, model: Path) -> str:
    """The SFT trainer's resolved configuration, as YAML. Writes nothing. Raises `ConfigError`.

    The steps follow from `bootstrap/kept.jsonl`; before there is one, from the paper's 12,934 dialogues.
    """
    kept, folder = run.root / "bootstrap" / "kept.jsonl", run.root.absolute()
    count = sum(1 for _ in read_records(kept, Rollout)) if kept.exists() else PAPER_SFT
    keys = sft_config(recipe, model=model, data=folder / "sft" / "train.parquet", run=folder, dialogues=count)
    return yaml_of(composed("sft_trainer_engine", keys))


def saved_step(checkpoints: Path) -> int:
    """The step that verl would resume after; 0 where nothing was saved."""
    path = checkpoints / "latest_checkpointed_iteration.txt"
    return int(path.read_text()) if path.exists() else 0


def _grpo_inputs(recipe: Recipe, model: Path, scripts: Sequence[Script]) -> str:
    """What Stage III's result depends on: not where it runs, nor how often it is written down."""
    grpo = recipe.grpo.model_dump(mode="json", exclude={"checkpoint_every", "transcripts_per_step"})
    seats = [parse_spec(spec) for spec in recipe.cluster.tutors or (recipe.seats.tutor,)]
    tutors = sorted({f"{seat.kind}:{seat.model}" for seat in seats})
    settings = (recipe.seed, recipe.answer_format, system_of(recipe), grpo, tutors)
    return fingerprint("grpo-verl", VERL_VERSION, settings, sorted(s.to_json() for s in scripts), weights_print(model))


def _sft_inputs(recipe: Recipe, model: Path, rollouts: Sequence[Rollout]) -> str:
    """What the training of Stage II depends on, likewise."""
    settings = (recipe.seed, system_of(recipe), recipe.sft.binding())
    return fingerprint("sft-verl", VERL_VERSION, settings, [r.to_json() for r in rollouts], weights_print(model))


def _start(command: Sequence[str], folder: Path, name: str, environ: dict[str, str]) -> None:
    """Run verl with the configuration `folder/name`; its output goes to `folder/verl.log` and to the terminal."""
    config = ["--config-path", str(folder.absolute()), "--config-name", Path(name).stem]
    hydra = [f"hydra.run.dir={folder.absolute()}", "hydra.output_subdir=null", "hydra.job.chdir=false"]
    log = folder / "verl.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*command, *config, *hydra], env={**os.environ, **environ},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                sys.stderr.buffer.write(line)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    code = process.wait()
    if code:
        raise StageError(f"verl ended with exit code {code}", where=log, hint="its last lines say why; then run again")


def _take_model(folder: Path, part: str, step: int) -> None:
    """Put the model of verl's last checkpoint at `folder/model`, whole or not at all."""
    source = folder / "checkpoints" / f"global_step_{step}" / part / "huggingface"
    if not any(source.glob("*.safetensors")):
        raise StageError(
            "verl left no Hugging Face model of its last step", where=source, hint=f"see {folder}/verl.log"
        )
    target, fresh = folder / "model", folder / ".model.new"
    with disk_errors(target):
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source, fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
