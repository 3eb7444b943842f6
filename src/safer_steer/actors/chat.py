"""The one face every chat model shows: `await model.complete(messages, sampling, schema) → Completion`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from safer_steer.dialogue import FinishReason, ImageRef, Record, TokenTrace, Usage


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(NamedTuple):
    """One message. Images stand before the text. `trace` holds an assistant message's own tokens, if known.

    Never written to disk and made for every turn of every request, so no `Record`: nothing is validated.
    """

    role: Role
    text: str
    images: tuple[ImageRef, ...] = ()
    trace: TokenTrace | None = None


class Sampling(Record):
    """How to sample. `temperature=0` is greedy; `seed` makes sampling repeatable where the model can."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(gt=0)] = 512
    seed: int | None = None


class Completion(Record):
    """What a model wrote."""

    text: str
    finish: FinishReason
    usage: Usage = Usage()
    trace: TokenTrace | None = None
    without: tuple[str, ...] = ()
    """Settings that were asked for and not sent, because the model does not take them."""


_SPENT: ContextVar[list[Usage] | None] = ContextVar("spent", default=None)


@contextmanager
def metering() -> Iterator[list[Usage]]:
    """What is `spent` within, by this task and those it starts, is added to the list."""
    bill: list[Usage] = []
    token = _SPENT.set(bill)
    try:
        yield bill
    finally:
        _SPENT.reset(token)


def spent(usage: Usage) -> None:
    """Put a call on the bill of whoever is `metering`."""
    bill = _SPENT.get()
    if bill is not None:
        bill.append(usage)


@runtime_checkable
class ChatModel(Protocol):
    """Anything that can write the next assistant message."""

    name: str

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Write the next assistant message; `schema` asks for JSON of that model where the server can.

        Raises `EndpointError` or `ContextOverflow`.
        """
        ...

    async def aclose(self) -> None:
        """Release connections, threads and memory."""
        ...
