"""A transformers model in this process as a `ChatModel`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from safer_steer.actors.chat import Completion, Message, Role, Sampling
from safer_steer.actors.local.batcher import Batcher
from safer_steer.actors.local.cache import PrefixStore
from safer_steer.actors.local.decode import Engine, Request, Written
from safer_steer.actors.local.fused import weights_of
from safer_steer.actors.local.linear import use_onednn
from safer_steer.actors.local.loading import check_supported, load_model
from safer_steer.actors.local.positions import Positions
from safer_steer.actors.local.tokens import DialogueTokenizer, Layout
from safer_steer.dialogue import TokenTrace, Usage, stable_id
from safer_steer.errors import ContextOverflow
from safer_steer.image_store import ImageStore

CACHE_BYTES = 1400 * 2**20
"""Bound on keys and values: of the dialogues being written, and of those kept between turns in what room is left."""


class LocalModel:
    """Writes answers with a model in this process, many dialogues side by side.

    Requests are gathered from the event loop and decoded in one worker thread; new ones join between tokens and
    finished ones leave. Keys and values are carried from turn to turn, and samples of one script share the first
    context. What a request draws follows from `sampling.seed` (or from `seed` and the dialogue), not from the batch.

    `max_context` lowers the model's own limit; `cache_bytes` bounds keys and values (where it is short, turns are
    read anew); `pack` trades memory for speed on the CPU: a copy of the weights, of a Llama-like model's in fp16.

    Raises `WeightsError` for a model that this engine cannot run.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str,
        images: ImageStore | None = None,
        device: torch.device | str | None = None,
        max_batch: int = 32,
        max_context: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        pack: bool = True,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.model = model if device is None else model.to(device)
        check_supported(self.model, name)
        use_onednn(self.model)
        self.tokens = DialogueTokenizer.of(processor, images)
        config: Any = model.config
        text = config.get_text_config()
        known = range(len(getattr(processor, "tokenizer", processor)))
        self.banned = tuple(sorted({*self.tokens.banned, *range(known.stop, text.vocab_size)}))
        limits = [limit for limit in (max_context, text.max_position_embeddings) if limit is not None]
        self.max_context = min(limits)
        self._seed = seed
        self._engine = Engine(
            self.model,
            end=self.tokens.end,
            banned=self.banned,
            images=self.tokens.images,
            store=PrefixStore(cache_bytes),
            packed=weights_of(self.model, pack=pack),
            positions=Positions(self.model, self.tokens.image_token),
        )
        self._batcher = Batcher(self._engine, max_batch)

    @classmethod
    def load(
        cls, path: Path, images: ImageStore | None = None, *, dtype: torch.dtype = torch.float32, **options: Any
    ) -> LocalModel:
        """Load a model folder; `options` as for the class. Raises `WeightsError` when it cannot be loaded.

        `dtype` bfloat16 suits GPUs; on CPUs float32 is the fast one.
        """
        model, processor = load_model(path, dtype)
        return cls(model, processor, **{"name": path.name, "images": images, **options})

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Write the next assistant message; `schema` is not enforced.

        Raises `ContextOverflow` when dialogue and answer could outgrow the context, `ImageError` for a lost image.
        """
        started = time.monotonic()
        if not messages or messages[-1].role is not Role.USER:
            raise ValueError("the last message must be the user's")
        layout = self.tokens.lay_out(messages)
        length = len(layout.ids)
        if length + sampling.max_tokens > self.max_context:
            raise ContextOverflow(
                f"{length} tokens and an answer of up to {sampling.max_tokens} exceed the {self.max_context} that fit",
                where=self.name,
                hint="use fewer turns, a lower max_tokens or a model with a longer context",
            )
        written = await self._write(layout, sampling)
        return Completion(
            text=self.tokens.decode(written.response),
            finish=written.finish,
            usage=Usage(
                prompt_tokens=length,
                completion_tokens=len(written.response),
                seconds=time.monotonic() - started,
            ),
            trace=TokenTrace(context=layout.parts[-1].ids, response=written.response, logprobs=written.logprobs),
        )

    async def _write(self, layout: Layout, sampling: Sampling) -> Written:
        seed = sampling.seed if sampling.seed is not None else int(stable_id(self._seed, layout.ids), 16)
        future: Future[Written] = Future()
        self._batcher.submit(Request(layout, sampling, seed, future))
        return await asyncio.wrap_future(future)

    @contextmanager
    def exclusive(self) -> Iterator[nn.Module]:
        """The model for training: waits until nothing is being written; answers asked for meanwhile wait.

        What was made from weights that may change (keys and values, packed copies) is dropped first.
        """
        with self._batcher.busy:
            self._engine.forget(fixed=False)
            yield self.model

    def invalidate(self) -> None:
        """Forget what was read under the old weights. Writing looks for changes itself; this frees the memory now."""
        with self._batcher.busy:
            self._engine.forget()

    async def aclose(self) -> None:
        """End the worker thread once what it is writing is written, and give its memory back."""
        await asyncio.to_thread(self._batcher.close)
        self._engine.forget()
