"""The recipe's data as verl reads them: parquet of scripts for GRPO, of dialogues for SFT."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.actors.assistant import system_of
from safer_steer.config import Recipe
from safer_steer.dialogue import Rollout, Script
from safer_steer.errors import StageError
from safer_steer.image_store import ImageStore
from safer_steer.store import disk_errors, write_atomic
from safer_steer.train.schedule import scripts_of_step, shortened
from safer_steer.train.verl import AGENT

IMAGE = "<image>"
"""verl's place for an image in a text."""


def write_rl_data(path: Path, scripts: Iterable[Script], recipe: Recipe) -> int:
    """Write the scripts that GRPO plays, step after step, in the single-machine engine's order; returns their number.

    The steps' rows are followed by those that replace groups which taught nothing. Each row carries the whole script
    as JSON; its images stay in the run folder. Raises `StageError` when there are none, `StorageError`.
    """
    grpo, cluster = recipe.grpo, recipe.cluster
    pool = [shortened(script, grpo.max_turns) for script in scripts]
    if not pool:
        raise StageError("there are no scripts to play", where="grpo", hint="run bootstrap first")
    spare = -(-cluster.refills // grpo.seeds_per_step)
    rows = [
        _row(script, number)
        for step in range(1, grpo.steps + spare + 1)
        for number, script in enumerate(
            scripts_of_step(pool, step, grpo.seeds_per_step, grpo.benign_share, recipe.seed),
            (step - 1) * grpo.seeds_per_step,
        )
    ]
    _write(path, rows)
    return len(rows)


def _row(script: Script, number: int) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": _neutral(script.turns[0].text)}],
        "agent_name": AGENT,
        "data_source": AGENT,
        "reward_model": {"style": "tutor", "ground_truth": ""},
        "extra_info": {"index": number},
        "script": script.to_json(),
    }


def write_sft_data(path: Path, rollouts: Sequence[Rollout], images: ImageStore, recipe: Recipe) -> int:
    """Write the kept dialogues for verl's SFT trainer, images as bytes; returns their number.

    Raises `StageError` when there are none, `ImageError` for an image the run folder lost.
    """
    if not rollouts:
        raise StageError("there are no dialogues to learn", where="sft", hint="run bootstrap first")
    _write(path, [_dialogue(rollout, images, recipe) for rollout in rollouts])
    return len(rollouts)


def _dialogue(rollout: Rollout, images: ImageStore, recipe: Recipe) -> dict[str, Any]:
    system = system_of(recipe)
    messages = [] if system is None else [{"role": "system", "content": system}]
    for turn in rollout.turns:
        places = IMAGE * len(rollout.script.images_at(turn.index))
        messages.append({"role": "user", "content": places + _neutral(turn.user)})
        messages.append({"role": "assistant", "content": _neutral(turn.answer.raw.strip())})
    pictures = []
    for ref in rollout.script.images_until(len(rollout.turns)):
        buffer = io.BytesIO()
        images.open(ref).save(buffer, format="PNG")
        pictures.append({"bytes": buffer.getvalue()})
    return {"messages": messages, "images": pictures}


def _neutral(text: str) -> str:
    """The text with nothing in it that verl would take for an image, a video or a sound, or a tokenizer for control.

    >>> _neutral("an <image> and <|im_end|>")
    'an < image> and < |im_end|>'
    """
    for word in ("<image>", "<video>", "<audio>"):
        text = text.replace(word, f"< {word[1:]}")
    return text.replace("<|", "< |")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    with disk_errors(path):
        write_atomic(path, buffer.getvalue())
