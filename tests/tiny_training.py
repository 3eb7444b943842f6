"""A student of a few thousand weights, its run folder and its tutor: Stages II and III in seconds."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from people import STAMP, ToldJudge, answer
from safer_steer.config import Recipe, recipe_from
from safer_steer.dialogue import History, ImageRef, Rollout, Script, ScriptKind, StopReason, Turn, UserTurn
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records, write_records
from safer_steer.train.grpo import grpo
from safer_steer.train.sft import SftStep, run_sft
from safer_steer.verdict import Proposal, Scored, Verdict
from tiny_vlm import tiny_processor, tiny_student

LORA = {"rank": 4, "alpha": 8}
CLOCKS = {"seconds", "rollout_seconds", "update_seconds", "tokens_per_second", "drift", "tutor_seconds"}
"""Fields of the metrics that tell of the machine, not of what was learned (decoding batches are composed by timing,
and `drift` is the rounding that comes of it)."""


class Killed(Exception):
    """Somebody pulled the plug: not an `ActorError`, so nothing catches it."""


def tiny_recipe(**sections: dict[str, object]) -> Recipe:
    grpo = {
        "learning_rate": 0.02, "steps": 4, "seeds_per_step": 2, "samples": 4, "micro_batch": 4, "max_tokens": 6,
        "beta": 0.01, "checkpoint_every": 2, "lora": LORA,
    }  # fmt: skip
    sft = {"learning_rate": 0.02, "batch_size": 2, "micro_batch": 2, "epochs": 8, "lora": LORA}
    return recipe_from({"grpo": {**grpo, **sections.get("grpo", {})}, "sft": {**sft, **sections.get("sft", {})}})


def run_grpo(*of: Any, **named: Any) -> dict[str, Any]:
    """`grpo` in an event loop of its own."""
    return asyncio.run(grpo(*of, **named))


def model_folder(root: Path) -> Path:
    folder = root / "start"
    tiny_student().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def picture(run: RunFolder) -> ImageRef:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(data, "PNG")
    return run.images.put(data.getvalue())


def tiny_scripts(run: RunFolder) -> list[Script]:
    """Three unsafe scripts with a picture and a benign one without; one to three turns."""
    ref = picture(run)
    return [
        Script(
            id=f"s{number}",
            seed_id=f"seed-{number}",
            kind=ScriptKind.BENIGN if number == 3 else ScriptKind.RED_TEAM,
            category="fraud",
            images=() if number == 3 else (ref,),
            turns=tuple(UserTurn(text=f"ask {number}{t}") for t in range(number % 3 + 1)),
        )
        for number in range(4)
    ]


def graded(level: float, history: History | None = None) -> Scored:
    following = None if history is None else history.scripted_next
    proposal = None if following is None else Proposal(user=f"but {following}", attack="persistence")
    scores = dict.fromkeys(("safety", "usefulness", "faithfulness"), float(level))
    return Scored(scores=scores, rationale="told so", stamp=STAMP, proposal=proposal)


def likes_letters(history: History, text: str) -> Verdict:
    """What this tutor wants: each letter of the alphabet in an answer is worth two points."""
    return graded(min(10, 1 + 2 * sum(sign.isascii() and sign.isalpha() for sign in text)), history)


def tutor(judge: Callable[[History, str], Verdict], kill_at: int | None = None) -> ToldJudge:
    """Pulls the plug at its `kill_at`-th verdict."""
    calls = 0

    def assess(history: History, text: str) -> Verdict:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise Killed
        return judge(history, text)

    return ToldJudge(assess)


def write_kept(run: RunFolder, answers: tuple[str, ...] = ("eeee", "ee e")) -> None:
    """Bootstrap's dialogues: every script answered by these texts in turn."""
    rollouts = []
    for script in tiny_scripts(run):
        turns = tuple(
            Turn(index=t, user=turn.text, answer=answer(answers[t % len(answers)]), verdict=graded(10))
            for t, turn in enumerate(script.turns, 1)
        )
        rollouts.append(Rollout(script=script, turns=turns, stop=StopReason.COMPLETED))
    write_records(run.root / "bootstrap" / "kept.jsonl", rollouts)


def sft(root: Path, start: Path, report: Silent | None = None, **more: object) -> list[SftStep]:
    """A short Stage II training from the model folder `start`, with these settings; its metrics."""
    run = RunFolder(root)
    write_kept(run)
    settings = {"max_steps": 6, "batch_size": 4, "micro_batch": 2, "checkpoint_every": 2, "learning_rate": 0.005}
    run_sft(tiny_recipe(sft={**settings, **more}), run, start, Silent() if report is None else report)
    return list(read_records(root / "sft" / "metrics.jsonl", SftStep))
