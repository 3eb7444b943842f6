"""What the user really asks for at one turn: something harmful, or which kind of harmless thing.

Read from the text that was said, with the plan's risk level as a floor where the script has one: a turn planned at
`HARM_RISK` or above asks for what must not be given, however another actor rewrote it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from safer_steer.actors.offline.frames import load_frames
from safer_steer.actors.offline.text import content, covered, normalised
from safer_steer.dialogue import HarmSlots, History, Script

HARM_RISK = 3
"""Planned risk levels from here on ask for the goal; 1 and 2 are harmless on their own."""

_NAMES_GOAL = 0.6


class Ask(StrEnum):
    """Kinds of request. `TASK` is a benign script's own question; the others occur in unsafe scripts."""

    HARM = "harm"
    TASK = "task"
    PICTURE = "picture"
    CHECK = "check"
    SUBJECT = "subject"
    SUITS = "suits"
    CONCERN = "concern"
    GENERAL = "general"


@lru_cache(maxsize=1)
def _shapes() -> tuple[tuple[Ask, re.Pattern[str]], ...]:
    """The kinds of harmless requests by the shapes of their words, in the order in which they are tried."""
    return tuple((Ask(name), re.compile("|".join(shapes))) for name, shapes in load_frames("asks").items())


def goal_stems(script: Script) -> frozenset[str]:
    """The words of the harmful goal: the slot, or the seed's question where there is none; nothing if benign."""
    if not script.is_unsafe:
        return frozenset()
    if script.slots is not None:
        return content(script.slots.goal)
    return content(script.question) if script.question is not None else frozenset()


def names_goal(script: Script, text: str) -> bool:
    """Whether a text says most of what the harmful goal is."""
    return covered(goal_stems(script), text) >= _NAMES_GOAL


def seeks_harm(history: History) -> bool:
    """Whether the user's turn asks for what must not be given.

    Never in a benign script. A planned turn that is said as written (or with words around it) does what its risk
    level says; one that was replaced also when its words name the goal; an unplanned one when its words name the
    goal or it is the script's last.
    """
    script = history.script
    if not script.is_unsafe:
        return False
    turn = script.turns[history.index - 1]
    if turn.risk is None:
        return history.index == len(script.turns) or names_goal(script, history.user)
    if turn.text in history.user:
        return turn.risk >= HARM_RISK
    return turn.risk >= HARM_RISK or names_goal(script, history.user)


def ask_of(history: History) -> Ask:
    """What the user's turn asks for."""
    if not history.script.is_unsafe:
        return Ask.TASK
    return Ask.HARM if seeks_harm(history) else harmless_ask(history.user, history.script.slots)


def harmless_ask(text: str, slots: HarmSlots | None) -> Ask:
    """The kind of a harmless request, from the shape of its words (the script's own phrases set aside)."""
    bare = normalised(text)
    if slots is not None:
        for phrase in (slots.topic, slots.cover, slots.subject):
            bare = bare.replace(phrase.lower(), "it")
    for ask, pattern in _shapes():
        if pattern.search(bare):
            return ask
    return Ask.GENERAL
