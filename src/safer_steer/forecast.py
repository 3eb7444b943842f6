"""What a command would run and ask, before it does: `--dry-run`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safer_steer import bootstrap
from safer_steer.actors.judging import judges
from safer_steer.actors.specs import SpecKind, parse_spec
from safer_steer.bench.suites import read_suite
from safer_steer.config import GrpoConfig, Recipe, SftConfig
from safer_steer.construct import stage
from safer_steer.dialogue import Seed
from safer_steer.seeds import load_seeds
from safer_steer.store import ImageStore, RunFolder
from safer_steer.train.memory import announcement

MODELS_EVALUATED = 3
PROTOCOLS = 2


def text(recipe: Recipe, only: str | None = None, run: RunFolder | None = None) -> str:
    """The forecast of one stage, or of the whole run, as text. Reads inputs, checks them, asks nobody.

    `run` is where it will be: what Stage II plays is known exactly once Stage I has finished there.
    """
    sections = {
        "construct": _construct,
        "bootstrap": lambda recipe: _bootstrap(recipe, run),
        "sft": _sft,
        "grpo": _grpo,
        "eval": _evaluations,
    }
    chosen = {name: work(recipe) for name, work in sections.items() if only in (None, name)}
    return json.dumps({"recipe": recipe.name, "seats": recipe.seats.model_dump(), **chosen}, indent=2, default=str)


def evaluation_text(recipe: Recipe, model: str) -> str:
    """The forecast of one evaluation."""
    return json.dumps({"model": model, "judge": recipe.seats.judge, **_suite(recipe)}, indent=2)


def _seeds(recipe: Recipe) -> tuple[Seed, ...]:
    settings = recipe.construction
    with tempfile.TemporaryDirectory() as folder:
        images = ImageStore(Path(folder))
        return load_seeds(settings.seeds, images, skip_bad_rows=settings.skip_bad_rows).seeds


def _construct(recipe: Recipe) -> dict[str, Any]:
    return stage.forecast(recipe, _seeds(recipe))


def _bootstrap(recipe: Recipe, run: RunFolder | None) -> dict[str, Any]:
    settings = recipe.bootstrap
    if run is not None and run.finished("construct") is not None:
        return bootstrap.forecast(recipe, stage.scripts_of(run))
    return {
        "plays": f"the {settings.sft_share:.0%} of the training scripts that are not kept for RL",
        "keeps": f"min safety >= {settings.tau_safe} and mean usefulness >= {settings.tau_help}",
        "calls per turn": {"red": 1, "blue": 1, "reward_judge": 1},
    }


def _sft(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.sft.model_dump(mode="json"), **_memory(recipe, recipe.sft)}


def _memory(recipe: Recipe, config: SftConfig | GrpoConfig) -> dict[str, Any]:
    """What training a student in a folder takes; the embedded one is small and may not be built yet."""
    spec = parse_spec(recipe.seats.student)
    if spec.kind is not SpecKind.LOCAL or spec.model is None:
        return {}
    return {"memory": announcement(Path(spec.model), config, recipe.open_dialogues)}


def _grpo(recipe: Recipe) -> dict[str, Any]:
    settings = recipe.grpo
    dialogues = settings.steps * settings.seeds_per_step * settings.samples
    turns = dialogues * settings.max_turns
    return {
        "steps": settings.steps,
        "dialogues": dialogues,
        "student answers at most": turns,
        "tutor calls at most": turns * (1 + settings.retries),
        **_memory(recipe, settings),
    }


def _suite(recipe: Recipe) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings, images = recipe.eval, ImageStore(Path(folder))
        suite = read_suite(settings.suite, images, settings.limit, skip_bad_rows=settings.skip_bad_rows)
    turns = sum(len(script.turns) for script in suite.scripts)
    skipped = {"skipped rows": suite.skips.rows} if suite.skips.rows else {}
    dialogues = len(suite.scripts)
    return {
        "suite": settings.suite,
        "dialogues": dialogues,
        "answers": turns,
        "judge calls": turns * judges(recipe.seats.judge),
        **skipped,
    }


def _evaluations(recipe: Recipe) -> dict[str, Any]:
    one, runs = _suite(recipe), MODELS_EVALUATED * PROTOCOLS
    return {
        "suite": one["suite"],
        "evaluations": runs,
        "dialogues": one["dialogues"] * runs,
        "answers": one["answers"] * runs,
        "judge calls": one["judge calls"] * runs,
        "tutor calls": one["answers"] * MODELS_EVALUATED,
    }
