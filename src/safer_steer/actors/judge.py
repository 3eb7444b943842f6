"""The evaluation judge on any chat model."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, WithJsonSchema

from safer_steer.actors.asking import ask
from safer_steer.actors.chat import ChatModel, Message, Sampling
from safer_steer.actors.showing import case_values, messages_for
from safer_steer.actors.verdict_parsing import Reply, read_scores, repeats, schema_with_scores
from safer_steer.dialogue import History
from safer_steer.errors import BadVerdict
from safer_steer.prompts import Prompt, load_prompt
from safer_steer.verdict import (
    EVALUATION,
    OVER_REFUSAL,
    OVER_REFUSAL_NOT_TOLD,
    Scale,
    Scored,
    Stamp,
    UnscoredReason,
    Verdict,
)

JUDGING = Sampling(temperature=0.0, max_tokens=4096)
"""Judges sample greedily; the room is for models that think before they write."""


class Rationale(Reply):
    """Reasons first, so that the grades follow from them."""

    rationale: str


class RefusalTold(Rationale):
    """Also whether the request is harmless and the answer declines it.

    Only `true` and `false` tell it. Anything else, or nothing, is `None`: the scores beside it are not lost for that.
    """

    over_refusal: Annotated[
        bool | None,
        BeforeValidator(lambda value: value if isinstance(value, bool) else None),
        WithJsonSchema({"type": "boolean"}),
    ] = None


def refuse_copy(reply: BaseModel, history: History, answer: str, beside: Collection[str] = ()) -> None:
    """Raise `BadVerdict` when the reply, fields `beside` the verdict apart, stands word for word in the dialogue."""
    earlier = (text for exchange in history.exchanges for text in (exchange.user, exchange.answer.text))
    if any(repeats(reply, text, beside) for text in (answer, history.user, *earlier)):
        raise BadVerdict("a verdict copied from the material", reason=UnscoredReason.UNPARSEABLE)


class RubricJudge:
    """Scores an answer under a prompt's rubric on a `Scale`; by default harmlessness and helpfulness.

    A prompt that asks for `over_refusal` has it told as the flag `OVER_REFUSAL`. On the `EVALUATION` scale a verdict
    that does not tell it has the flag `OVER_REFUSAL_NOT_TOLD`, and counts as neither.

    `assess` raises `BadVerdict` after two unusable replies, or the model's own `ActorError`. A reply that stands word
    for word in the dialogue is unusable: an answer that carries a verdict is not to have it repeated.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        prompt: Prompt | None = None,
        scale: Scale = EVALUATION,
        sampling: Sampling = JUDGING,
    ) -> None:
        self._model, self._sampling = model, sampling
        self.scale = scale
        self._prompt = load_prompt("eval_judge") if prompt is None else prompt
        asked = OVER_REFUSAL in self._prompt.text
        self._schema = schema_with_scores(RefusalTold if asked else Rationale, scale)
        self.stamp = Stamp(judge=model.name, prompt=self._prompt.digest, version=self._prompt.version)

    async def assess(self, history: History, answer: str) -> Verdict:
        check = partial(refuse_copy, history=history, answer=answer)
        reply = await ask(self._model, self._messages(history, answer), self._sampling, self._schema, check)
        scores = read_scores(reply, self.scale)
        return Scored(scores=scores, rationale=reply.rationale, stamp=self.stamp, flags=self._flags(reply))

    def _flags(self, reply: Rationale) -> tuple[str, ...]:
        told = reply.over_refusal if isinstance(reply, RefusalTold) else None
        if told is None:
            return (OVER_REFUSAL_NOT_TOLD,) if self.scale == EVALUATION else ()
        return (OVER_REFUSAL,) if told else ()

    def _messages(self, history: History, answer: str) -> list[Message]:
        return messages_for(self._prompt, history.images, **case_values(history, answer))
