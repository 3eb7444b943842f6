"""One model on a server, and the one loop that retries."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial

from pydantic import BaseModel

from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.actors.endpoint.body import Body, request_body
from safer_steer.actors.endpoint.dialect import Dialect, dropped, learn, left_out
from safer_steer.actors.endpoint.images import ImageFragments
from safer_steer.actors.endpoint.reply import Fault, failure, read_completion, read_error
from safer_steer.actors.endpoint.server import Endpoint
from safer_steer.errors import ContextOverflow


class EndpointModel:
    """One model on an `Endpoint`, as a `ChatModel`."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        images: ImageFragments,
        *,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = name
        self._notify = notify
        self._endpoint, self._images = endpoint, images
        self._dialect = Dialect()

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Ask until there is an answer or the budget is spent.

        Raises `EndpointError`, `ContextOverflow`, `ImageError` when an image cannot be read, or `StageError` when the
        run's retries are spent.
        """
        images = [[await self._images.get(ref) for ref in message.images] for message in messages]
        attempt = 1
        while True:
            dialect = self._dialect
            make = partial(request_body, self.name, messages, images, sampling, schema, dialect)
            without = left_out(dialect, sampling, schema=schema is not None)
            try:
                completion = await self._attempt(make, dialect)
            except Fault as fault:
                await self._endpoint.pause(attempt, fault, model=self.name, label=zlib.crc32(bytes(make())))
                attempt += 1
                continue
            if completion is not None:
                return completion.model_copy(update={"without": without}) if without else completion

    async def _attempt(self, make: Callable[[], Body], dialect: Dialect) -> Completion | None:
        """One request. `None`: the server taught us its dialect, ask again in it (a dialect only ever shrinks)."""
        reply = await self._endpoint.exchange(make)
        if reply.status == 200:
            completion = read_completion(reply.body, reply.seconds)
            self._endpoint.account(reply.booked, completion.usage)
            return completion
        error = failure(reply.status, reply.body, reply.wait, base_url=self._endpoint.base_url, model=self.name)
        if reply.status in (400, 422) and not isinstance(error, ContextOverflow) and self._learn(reply.body, dialect):
            return None
        raise error

    def _learn(self, reply: bytes, dialect: Dialect) -> bool:
        """Adapt to a 400; requests already under way in the old dialect simply follow."""
        error = read_error(reply)
        learned = learn(dialect, error.param, error.message)
        if learned is None:
            return False
        if self._dialect == dialect:
            self._dialect = learned
            if lost := dropped(dialect, learned):
                self._notify(f"{self.name} at {self._endpoint.base_url} rejects '{lost}': asked without it from now on")
        return self._dialect != dialect

    async def aclose(self) -> None:
        """Close the endpoint's connections (every model on it shares them) and the image threads."""
        await self._endpoint.aclose()
        self._images.close()
