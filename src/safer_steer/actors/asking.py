"""Asking a model for a structured reply: once, and once more if the reply is unusable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from safer_steer.actors.chat import ChatModel, Completion, Message, Role, Sampling, spent
from safer_steer.actors.verdict_parsing import parse_reply
from safer_steer.dialogue import FinishReason
from safer_steer.errors import BadVerdict
from safer_steer.prompts import neutralise
from safer_steer.verdict import UnscoredReason

M = TypeVar("M", bound=BaseModel)
_QUOTED = 2000


async def ask(
    model: ChatModel,
    messages: Sequence[Message],
    sampling: Sampling,
    schema: type[M],
    check: Callable[[M], None] = lambda reply: None,
) -> M:
    """The model's reply as a `schema`. An unusable one is sent back with what is wrong, once.

    `check` may raise `BadVerdict` for what a schema cannot say. Raises `BadVerdict` when the second reply is no
    better, and whatever the model raises.
    """
    completion = await model.complete(messages, sampling, schema)
    spent(completion.usage)
    try:
        return _read(completion, schema, check)
    except BadVerdict as problem:
        again = [*messages, *_complaint(completion.text, problem)]
    seed = None if sampling.seed is None else sampling.seed + 1
    completion = await model.complete(again, sampling.model_copy(update={"seed": seed}), schema)
    spent(completion.usage)
    return _read(completion, schema, check)


def _read(completion: Completion, schema: type[M], check: Callable[[M], None]) -> M:
    try:
        reply = parse_reply(completion.text, schema)
    except BadVerdict as error:
        if completion.finish is FinishReason.LENGTH:
            raise BadVerdict(f"cut off at the token limit; {error}", reason=error.reason) from None
        if completion.finish is FinishReason.FILTER:
            raise BadVerdict(f"stopped by the server's filter; {error}", reason=UnscoredReason.REFUSED) from None
        raise
    check(reply)
    return reply


def _complaint(text: str, problem: BadVerdict) -> list[Message]:
    said = neutralise(text[:_QUOTED]) or "(nothing)"  # it may quote what it judges
    request = f"That cannot be used ({problem.what}). Reply with the JSON object alone, exactly as described."
    return [Message(role=Role.ASSISTANT, text=said), Message(role=Role.USER, text=request)]
