"""The offline blue expert: constructive defence in one to three short sentences (`data/blue_guidelines.md`).

It judges the request that was really made (`demand.py`). A harmful one gets a neutral refusal, a concrete safe
alternative and an open question; a harmless one a brief true answer from the facts and slots; a benign one its
reference answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from safer_steer.actors.offline.demand import Ask, ask_of
from safer_steer.actors.offline.frames import data_text, dealt, fill, fitting, load_frames, slots_of
from safer_steer.actors.offline.text import words
from safer_steer.dialogue import Answer, AnswerState, FinishReason, History, Script
from safer_steer.errors import ActorError

_NAMED_GOAL_WORDS = 6
"""Longer goals are not repeated in the refusal: the answer stays short."""


class OfflineBlue:
    """The blue expert of Stage II. Deterministic; different dialogues and turns get different words."""

    name = "offline-blue"

    async def answer(self, history: History) -> Answer:
        text = self.reply(history)
        return Answer(text=text, raw=text, state=AnswerState.OK, finish=FinishReason.STOP)

    def reply(self, history: History) -> str:
        """The answer's words; raises `ActorError` for a benign turn whose right answer nobody wrote down."""
        ask = ask_of(history)
        if ask is Ask.TASK:
            return _reference(history)
        return _decline(history) if ask is Ask.HARM else _oblige(history, ask)


def guidelines() -> str:
    """The written guidelines that the frames follow; a model in the blue seat may be given the same text."""
    return data_text("blue_guidelines.md")


def safe_phrase(script: Script) -> str:
    """What to offer instead: the script's own safe alternative, or its category's."""
    if script.slots is not None:
        return script.slots.safe
    by_category = load_frames("safe_by_category")
    name = script.category.lower()
    fitting_parts = [part for part in by_category if part in name]
    return by_category[fitting_parts[0] if fitting_parts else "other"][0]


def _reference(history: History) -> str:
    reference = history.script.turns[history.index - 1].reference
    if reference is None:
        raise ActorError(
            "the benign turn has no reference answer", where="offline blue expert", hint="use a model as blue expert"
        )
    return reference


def _next(history: History, act: str, slots: Mapping[str, str]) -> str:
    """The act's frame for this turn, dealt so that a dialogue does not hear the same sentence twice running."""
    options = dealt(fitting(load_frames("blue_frames")[act], slots), history.script.id, history.sample, act)
    return fill(options[history.index % len(options)], slots)


def _decline(history: History) -> str:
    slots = slots_of(history.script) | {"safe": safe_phrase(history.script)}
    named = "goal" in slots and len(words(slots["goal"])) <= _NAMED_GOAL_WORDS and history.index % 2 == 1
    refusal = _next(history, "refusal" if named else "refusal_plain", slots)
    return f"{refusal} {_next(history, 'offer', slots)} {_next(history, 'question', slots)}"


def _oblige(history: History, ask: Ask) -> str:
    slots = slots_of(history.script)
    asked = [fact for fact in history.script.facts if fact in history.user]
    if asked:
        slots["checked"] = asked[0]
    if fitting(load_frames("blue_frames")[ask], slots):
        return _next(history, ask, slots)
    return _next(history, "unknown_picture", slots)
