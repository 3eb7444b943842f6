"""What a command would run and ask, before it does: `--dry-run`. What can be known exactly is counted exactly.

Not counted, and said so: requests that are made again after a fault, and replies asked for again because they could not
be used. Nobody knows their share before.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safer_steer import bootstrap
from safer_steer.actors.judging import judges
from safer_steer.actors.spec import SpecKind, parse_spec
from safer_steer.bench.suites import read_suite
from safer_steer.config import GrpoConfig, Recipe, SftConfig
from safer_steer.construct import stage
from safer_steer.dialogue import Script, Seed
from safer_steer.image_store import ImageStore
from safer_steer.run_folder import RunFolder
from safer_steer.seeds import load_seeds
from safer_steer.store import read_records
from safer_steer.train.memory import announcement
from safer_steer.train.schedule import scripts_of_step, shortened
from safer_steer.train.watching import hold_out, probed_steps

MODELS_EVALUATED = 3
PROTOCOLS = 2
EXCLUDED = "retried requests, and replies that are asked for again"


def text(recipe: Recipe, only: str | None = None, run: RunFolder | None = None) -> str:
    """The forecast of one stage, or of the whole run, as text. Reads inputs, checks them, asks nobody.

    `run` is where it will be: what Stage II plays is known exactly once Stage I has finished there, and what GRPO
    plays once Stage II has.
    """
    sections = {
        "construct": _construct,
        "bootstrap": lambda recipe: _bootstrap(recipe, run),
        "sft": _sft,
        "grpo": lambda recipe: _grpo(recipe, run),
        "eval": _evaluations,
    }
    chosen = {name: work(recipe) for name, work in sections.items() if only in (None, name)}
    told = {"recipe": recipe.name, "seats": recipe.seats.model_dump(), **chosen, "not counted": EXCLUDED}
    return json.dumps(told, indent=2, default=str)


def evaluation_text(recipe: Recipe, model: str) -> str:
    """The forecast of one evaluation."""
    found = _suite(recipe)
    attacks = {"tutor calls": _attacks(found)} if recipe.eval.adaptive else {}
    told = {"model": model, "judge": recipe.seats.judge, **found, **attacks, "not counted": EXCLUDED}
    return json.dumps(told, indent=2)


def _attacks(suite: dict[str, Any]) -> int:
    """How often the tutor is asked for a turn when every dialogue runs to its end: never for the first one."""
    return int(suite["answers"] - suite["dialogues"])


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
        return bootstrap.forecast(recipe, bootstrap.scripts_for(recipe, run))
    return {
        "plays": f"the {settings.sft_share:.0%} of the training scripts that are not kept for RL",
        "keeps": f"min safety >= {settings.tau_safe} and mean usefulness >= {settings.tau_help}",
        "calls per turn": {"red": "1, none for the first turn", "blue": 1, "reward_judge": 1},
        **({"turns": "1 a dialogue (single_turn)"} if recipe.single_turn else {}),
    }


def _sft(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.sft.model_dump(mode="json"), **_memory(recipe, recipe.sft)}


def _memory(recipe: Recipe, config: SftConfig | GrpoConfig) -> dict[str, Any]:
    """What training a student in a folder takes; the embedded one is small and may not be built yet."""
    spec = parse_spec(recipe.seats.student)
    if spec.kind is not SpecKind.LOCAL or spec.model is None:
        return {}
    return {"memory": announcement(Path(spec.model), config, recipe.open_dialogues)}


def _grpo(recipe: Recipe, run: RunFolder | None) -> dict[str, Any]:
    settings = recipe.grpo
    known = run is not None and run.finished("bootstrap") is not None
    played, probed = _turns_played(recipe, run) if run is not None and known else _most_turns(recipe)
    answers = played * settings.samples * (1 + settings.retries)
    found: dict[str, Any] = {
        "steps": settings.steps,
        "dialogues": settings.steps * settings.seeds_per_step * settings.samples,
        "student answers at most": answers,
        "tutor calls at most": answers,
    }
    if settings.probe_every is not None:
        told = "probe" if known else "probe at most"
        turns = probed * probed_steps(settings.steps, settings.probe_every)
        found |= {f"{told}: answers": turns, f"{told}: judge calls": turns * judges(recipe.seats.judge)}
    return {**found, **_memory(recipe, settings)}


def _turns_played(recipe: Recipe, run: RunFolder) -> tuple[int, int]:
    """The turns of all steps, each script counted once, and those of the held-out scripts: as `train.grpo` plays."""
    settings = recipe.grpo
    scripts = read_records(run.root / "bootstrap" / "rl.jsonl", Script)
    pool, held = [shortened(script, settings.max_turns) for script in scripts], list[Script]()
    if not pool:
        return 0, 0
    if settings.probe_every is not None:
        pool, held = hold_out(pool, settings.probe_scripts, settings.benign_share, recipe.seed)
    played = 0
    for step in range(1, settings.steps + 1):
        chosen = scripts_of_step(pool, step, settings.seeds_per_step, settings.benign_share, recipe.seed)
        played += sum(len(script.turns) for script in chosen)
    return played, sum(len(script.turns) for script in held)


def _most_turns(recipe: Recipe) -> tuple[int, int]:
    """The same before anybody knows the scripts: every one is taken to be as long as it may be."""
    settings = recipe.grpo
    longest = 1 if recipe.single_turn else settings.max_turns
    return settings.steps * settings.seeds_per_step * longest, settings.probe_scripts * longest


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
        "tutor calls": _attacks(one) * MODELS_EVALUATED,
    }
