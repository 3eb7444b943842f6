"""Any provider of Inspect in any seat: `inspect:PROVIDER/MODEL`. Needs the extra `safer-steer[inspect]`.

For servers that speak OpenAI's protocol the endpoint client is the better choice: a call costs it a fraction of the
CPU. This is for everybody else.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from pydantic import BaseModel

from safer_steer.actors.chat import Completion, Message, Role, Sampling
from safer_steer.dialogue import FinishReason, ImageRef, Usage
from safer_steer.errors import ConfigError, ContextOverflow, EndpointError

try:
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentImage,
        ContentText,
        GenerateConfig,
        Model,
        ModelOutput,
        ResponseSchema,
        get_model,
    )
    from inspect_ai.util import json_schema
except ImportError as error:
    raise ConfigError(
        f"Inspect is not installed ({error.name})", hint="pip install 'safer-steer[inspect]', in a venv of its own"
    ) from error

_IMAGES_KEPT = 64
_SAID = 200
_SECRET = re.compile(r"\b(?:sk|key|Bearer)[-_ ][\w.-]{8,}")
_FINISH = {"max_tokens": FinishReason.LENGTH, "content_filter": FinishReason.FILTER}


class InspectModel:
    """An Inspect model as a `ChatModel`; `read` gives an image's bytes (and raises `ImageError`).

    Raises `ConfigError` when the provider does not exist, lacks its package, or has no key.
    """

    def __init__(self, name: str, read: Callable[[ImageRef], bytes], *, model: Model | None = None) -> None:
        self.name = name
        self._model = _get(name) if model is None else model
        self._image = lru_cache(maxsize=_IMAGES_KEPT)(lambda ref: data_url(ref, read(ref)))

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Ask through Inspect, which retries by its own rules. Raises `EndpointError` or `ContextOverflow`."""
        chat = [self._message(message) for message in messages]
        config = GenerateConfig(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.top_p < 1 else None,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            response_schema=None
            if schema is None
            else ResponseSchema(name=schema.__name__, json_schema=json_schema(schema)),
        )
        began = time.perf_counter()
        try:
            output = await self._model.generate(chat, config=config)
        except Exception as error:  # the boundary: every provider raises its own
            raise EndpointError(f"{type(error).__name__}: {_told(str(error))}", where=self.name) from error
        return read_output(output, self.name, time.perf_counter() - began)

    def _message(self, message: Message) -> ChatMessage:
        if message.role is Role.SYSTEM:
            return ChatMessageSystem(content=message.text)
        if message.role is Role.ASSISTANT:
            return ChatMessageAssistant(content=message.text)
        if not message.images:
            return ChatMessageUser(content=message.text)
        images = [ContentImage(image=self._image(ref)) for ref in message.images]
        return ChatMessageUser(content=[*images, ContentText(text=message.text)])

    async def aclose(self) -> None:
        """Close the provider's connections."""
        await self._model.api.aclose()


def _get(name: str) -> Model:
    try:
        return get_model(name, memoize=False)
    except Exception as error:  # a provider's own kinds: no such provider, no package, no key
        raise ConfigError(f"no Inspect model '{name}': {_told(str(error))}", where="SPEC") from error


def data_url(ref: ImageRef, data: bytes) -> str:
    """An image as Inspect wants it."""
    return f"data:{ref.media_type};base64,{base64.b64encode(data).decode()}"


def read_output(output: ModelOutput, name: str, seconds: float) -> Completion:
    """What Inspect gave back as a completion; raises `EndpointError` or `ContextOverflow`."""
    if output.error or not output.choices:
        raise EndpointError(_told(output.error or "no answer"), where=name)
    if output.stop_reason == "model_length":
        raise ContextOverflow(f"the dialogue no longer fits '{name}'", where=name)
    usage = output.usage
    return Completion(
        text=output.completion,
        finish=_FINISH.get(output.stop_reason, FinishReason.STOP),
        usage=Usage(
            prompt_tokens=None if usage is None else usage.input_tokens,
            completion_tokens=None if usage is None else usage.output_tokens,
            seconds=seconds,
        ),
    )


def _told(text: str) -> str:
    """A provider's message, short, in one line, without what looks like a key."""
    return _SECRET.sub("***", " ".join(text.split()))[:_SAID]
