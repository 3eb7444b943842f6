"""The one face every chat model shows: `await model.complete(messages, sampling, schema) → Completion`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from safer_steer.dialogue import FinishReason, ImageRef, Record, TokenTrace, Usage


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(Record):
    """One message. Images stand before the text. `trace` holds an assistant message's own tokens, if known."""

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
