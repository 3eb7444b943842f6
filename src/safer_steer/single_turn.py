"""The ablation "single-turn data": every script asked at once, without the conversation that leads up to it."""

from __future__ import annotations

from collections.abc import Iterable

from safer_steer.dialogue import Script


def single_turns(scripts: Iterable[Script]) -> tuple[Script, ...]:
    """One dialogue of one turn for every seed and kind: the seed's own question, or the script's last turn."""
    found: dict[tuple[str, str], Script] = {}
    for script in sorted(scripts, key=lambda script: script.id):
        found.setdefault((script.seed_id, script.kind), single_turn(script))
    return tuple(found.values())


def single_turn(script: Script) -> Script:
    """The script as its open question alone, with every image it shows."""
    last = script.turns[-1]
    text = last.text if script.question is None else script.question
    turn = last.model_copy(update={"text": text, "images": ()})
    return script.model_copy(update={"turns": (turn,), "images": script.images_until(len(script.turns))})
