"""An assistant that takes over what was answered in another evaluation, as long as the dialogue is the same one."""

from __future__ import annotations

from collections.abc import Callable

from safer_steer.actors.assistant import messages_of
from safer_steer.dialogue import Answer, AnswerState, History, Rollout, Usage
from safer_steer.seats import Assistant

NOTHING = Usage(prompt_tokens=0, completion_tokens=0)
"""What a recalled answer cost: it was paid for where it was written."""


class RecallingAssistant:
    """Answers from a `recorded` dialogue where this one so far is word for word the same, and else asks `assistant`.

    Why: a dialogue with an adaptive user begins as the scripted one did and stays so until the tutor says something of
    its own, a benign one often to its end; a greedy model would write all of that a second time, and writing takes most
    of an evaluation's time. Every recalled answer is the recorded one, token trace included, so that the next turn goes
    on from the same ids; only its usage is nothing.

    Greedy answers are equal but for rounding: which dialogues are decoded side by side, and how much of one is read at
    once, change the last digits of the logits, so that of two tokens as good as equally likely the other may be
    written. Recalling changes no more than another order of the dialogues would.

    `recorded` finds a dialogue by its `Rollout.key`. That it was answered by this very model, greedily, under the same
    limit, answer format and system prompt is the caller's to know. What came to nothing (an empty answer, a format
    failure) is asked for again.
    """

    def __init__(self, assistant: Assistant, recorded: Callable[[str], Rollout | None]) -> None:
        self.name = assistant.name
        self.recalled = 0
        self._assistant, self._recorded = assistant, recorded

    async def answer(self, history: History) -> Answer:
        """The recorded answer to this very history, or the assistant's own; raises as that does."""
        known = self._recall(history)
        if known is None:
            return await self._assistant.answer(history)
        self.recalled += 1
        return known.model_copy(update={"usage": NOTHING})

    def _recall(self, history: History) -> Answer | None:
        played = self._recorded(f"{history.script.id}#{history.sample}")
        if played is None or len(played.turns) < history.index:
            return None
        *before, then = played.turns[: history.index]
        if then.answer.state is not AnswerState.OK:
            return None
        same = _read(History(played.script, tuple(before), then.user, played.sample)) == _read(history)
        return then.answer if same else None


def _read(history: History) -> list[object]:
    """All that a model reads before it answers: images by content, texts, and earlier answers as the ids they are.

    Log-probabilities were written down, not read.
    """
    return [
        (
            message.role,
            message.text,
            [image.sha256 for image in message.images],
            None if message.trace is None else (message.trace.context, message.trace.response),
        )
        for message in messages_of(history)
    ]
