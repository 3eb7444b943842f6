"""The ablation "single-turn data": every script asked at once, without the conversation that leads up to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from safer_steer.dialogue import Script


def single_turns(scripts: Iterable[Script]) -> Iterator[Script]:
    """One unsafe and one benign dialogue of one turn for every seed: its own question, or the script's last turn.

    Of several scripts the first counts: they come sorted by id. Obfuscated and red-team scripts of a seed pursue one
    question, which is asked once.
    """
    met: set[tuple[str, bool]] = set()
    for script in scripts:
        if (script.seed_id, script.is_unsafe) not in met:
            met.add((script.seed_id, script.is_unsafe))
            yield single_turn(script)


def single_turn(script: Script) -> Script:
    """The script as its open question alone, with every image it shows."""
    last = script.turns[-1]
    text = last.text if script.question is None else script.question
    turn = last.model_copy(update={"text": text, "images": ()})
    return script.model_copy(update={"turns": (turn,), "images": script.images_until(len(script.turns))})
