"""The student behind verl's rollout servers, as a `ChatModel`: tokens in, tokens out, nothing tokenised twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.actors.local.tokens import DialogueTokenizer, Layout
from safer_steer.dialogue import FinishReason, TokenTrace, Usage
from safer_steer.errors import ContextOverflow, EndpointError
from safer_steer.image_store import ImageStore

FORBIDDEN = -100.0
"""What is added to the logit of a token that an answer may not hold. Servers take no infinity."""


class VerlStudent:
    """Lays a dialogue out as `LocalModel` does and lets verl's server continue it.

    `banned` tokens (images, other control tokens, ids beyond the vocabulary) are kept out of answers; `versions` are
    the weights' versions that wrote, as the servers report them. One instance plays one group: its dialogues go to
    the server that already holds their prefix.
    """

    def __init__(
        self,
        server: Any,
        tokenizer: DialogueTokenizer,
        images: ImageStore,
        *,
        vocabulary: tuple[int, int],
        max_context: int,
    ) -> None:
        self.name = "student"
        self.versions: list[int] = []
        self.seconds = 0.0
        self._server, self._tokens, self._images, self._max_context = server, tokenizer, images, max_context
        known, heads = vocabulary
        self._banned = dict.fromkeys(sorted({*tokenizer.banned, *range(known, heads)}), FORBIDDEN)
        self._sessions: dict[tuple[int, ...], str] = {}

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Write the next assistant message. Raises `ContextOverflow`, or `EndpointError` for a server's failure."""
        started = time.monotonic()
        layout = self._tokens.lay_out(messages)
        length = len(layout.ids)
        if length + sampling.max_tokens > self._max_context:
            raise ContextOverflow(
                f"{length} tokens and an answer of up to {sampling.max_tokens} exceed the {self._max_context} that fit",
                where=self.name,
                hint="raise grpo.max_length, or lower grpo.max_tokens or grpo.max_turns",
            )
        written, logprobs = await self._write(layout, sampling)
        self.seconds += time.monotonic() - started
        return Completion(
            text=self._tokens.decode(written),
            finish=FinishReason.STOP if written and written[-1] == self._tokens.end else FinishReason.LENGTH,
            usage=Usage(prompt_tokens=length, completion_tokens=len(written), seconds=time.monotonic() - started),
            trace=TokenTrace(context=layout.parts[-1].ids, response=written, logprobs=logprobs),
        )

    async def _write(self, layout: Layout, sampling: Sampling) -> tuple[tuple[int, ...], tuple[float, ...]]:
        pictures = [await asyncio.to_thread(self._images.open, ref) for ref in layout.images]
        session = self._session(layout)
        try:
            output = await self._server.generate(
                request_id=session,
                prompt_ids=list(layout.ids),
                sampling_params=self._sampling(sampling),
                image_data=pictures or None,
            )
        except Exception as error:  # whatever a server or Ray throws ends this dialogue, not the training
            raise EndpointError(f"{type(error).__name__}: {error}", where="rollout server") from error
        written = tuple(int(token) for token in output.token_ids)
        if output.stop_reason == "aborted" or not written:
            raise EndpointError(f"wrote nothing (stop reason {output.stop_reason})", where="rollout server")
        if output.log_probs is None or len(output.log_probs) != len(written):
            raise EndpointError("gave no log-probabilities", where="rollout server")
        self._sessions[layout.ids + written] = session
        self.versions += [
            int(version)
            for key in ("min_global_steps", "max_global_steps")
            if (version := output.extra_fields.get(key)) is not None
        ]
        return written, tuple(float(value) for value in output.log_probs)

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        """No seed: the servers' batches are put together by timing, so it would promise what it cannot keep."""
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": [self._tokens.end],
            "logit_bias": self._banned,
            "logprobs": True,
        }

    def _session(self, layout: Layout) -> str:
        """One name per dialogue, so that its turns go to the server that holds what came before them."""
        before = layout.ids[: len(layout.ids) - len(layout.parts[-1].ids)]
        name = self._sessions.pop(before, None) if before else None
        return uuid4().hex if name is None else name

    async def aclose(self) -> None:
        """Nothing of ours is open: the servers are verl's."""
