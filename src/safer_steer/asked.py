"""What a run was asked for, as fingerprints: they need no seat, no model in memory and no seed read.

Equal ones mean that a finished stage need not even be looked into. Where they differ the stage itself decides, by the
claim on its folder, which knows better what it hangs on.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from safer_steer import __version__
from safer_steer.actors.generating import load_strategies
from safer_steer.actors.spec import model_print, seats_print
from safer_steer.bench.suites import suite_print
from safer_steer.config import Recipe, Start
from safer_steer.construct.estimate import STAGE_SEATS
from safer_steer.dialogue import ScriptKind
from safer_steer.errors import SaferSteerError
from safer_steer.evaluating import prompts_print
from safer_steer.run_folder import RunFolder
from safer_steer.store import fingerprint

SEATS = {**STAGE_SEATS, "sft": ("student",), "grpo": ("student", "tutor")}


def whole_print(recipe: Recipe) -> str:
    """A whole run of built-in seeds."""
    settings = (suite_print(recipe.eval.suite), model_print(recipe.seats.student), prompts_print(recipe))
    return fingerprint("whole", __version__, recipe.model_dump(mode="json"), _strategies(recipe), settings)


def stage_print(recipe: Recipe, run: RunFolder, name: str) -> str | None:
    """A stage and the files it reads; `None` where only the stage itself can tell: seeds of the user's own."""
    if name not in SEATS or (name == "construct" and any(source.path for source in recipe.construction.seeds)):
        return None
    files = {
        "construct": [],
        "bootstrap": [run.root / "construct" / f"{kind}.jsonl" for kind in ScriptKind],
        "sft": [run.root / "bootstrap" / "kept.jsonl"],
        "grpo": [run.root / "bootstrap" / "rl.jsonl", *_weights(recipe, run)],
    }[name]
    try:
        people = (seats_print(recipe.seats, SEATS[name]), _strategies(recipe))
    except SaferSteerError:  # the stage says what is wrong, and where
        return None
    written = [item.name + item.read_text() for item in _prompts()]
    states = [_state(file) for file in files]
    return fingerprint(name, __version__, recipe.model_dump(mode="json"), people, written, states)


def _strategies(recipe: Recipe) -> list[str]:
    settings = recipe.construction
    return [strategy.to_json() for strategy in load_strategies(settings.strategies, settings.strategy_folder)]


def _prompts() -> list[Path]:
    folder = Path(str(resources.files("safer_steer.prompts")))
    return sorted(folder.glob("*.md"))


def _weights(recipe: Recipe, run: RunFolder) -> list[Path]:
    """What Stage III starts from, where that is Stage II's model."""
    return sorted((run.root / "sft" / "model").glob("*.safetensors")) if recipe.grpo.start is Start.SFT else []


def _state(file: Path) -> tuple[str, int, int] | None:
    """A file as it is, without reading it; `None` where there is none."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return file.name, stat.st_size, stat.st_mtime_ns
