"""The decoding engine: dialogues join, write a token at a time side by side, and leave. One thread uses it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from safer_steer.actors.chat import Sampling
from safer_steer.actors.cores import take_share
from safer_steer.actors.local.cache import KeptRow, PrefixStore, SlotCache, prefix_key
from safer_steer.actors.local.images import ImageReader
from safer_steer.actors.local.packed import PackedWeights, Pass
from safer_steer.actors.local.positions import Positions
from safer_steer.actors.local.sampling import Draw, choose
from safer_steer.actors.local.tokens import Layout
from safer_steer.dialogue import FinishReason, ImageRef

PREFILL_TOKENS = 512
"""How many tokens one prefill pass reads at most (one sequence may be longer)."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a request came to: the response ids (with the end token if it was written) and their log-probabilities."""

    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason


@dataclass(eq=False, slots=True)
class Request:
    """One answer to write: a laid-out dialogue that ends with the context of the answer."""

    layout: Layout
    sampling: Sampling
    seed: int
    future: Future[Written]
    ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = self.layout.ids

    def images_before(self, length: int) -> list[str]:
        """The sha256 of the images whose context starts within the first `length` ids."""
        return [image.sha256 for start, image in self._placed() if start < length]

    def images_after(self, length: int) -> tuple[ImageRef, ...]:
        """The images whose context starts at `length` or later."""
        return tuple(image for start, image in self._placed() if start >= length)

    def _placed(self) -> Iterator[tuple[int, ImageRef]]:
        """Every image with the start of the context that it stands in."""
        start = 0
        for part in self.layout.parts:
            for image in part.images:
                yield start, image
            start += len(part.ids)

    def key(self, length: int) -> bytes:
        """What the first `length` ids are kept under."""
        return prefix_key(self.ids[:length], self.images_before(length))

    @property
    def cuts(self) -> list[int]:
        """Lengths at which an earlier turn may have left its keys and values, longest first.

        After an answer, all but its last token was read.
        """
        return [stop - 1 for _, stop in reversed(self.layout.answer_spans)]

    @property
    def opening(self) -> int:
        """The length of the first context without its last token, which is read again for its logits."""
        return len(self.layout.parts[0].ids) - 1


@dataclass(eq=False, slots=True)
class Row:
    """A request in a slot. `length` ids stand in the cache; `response` are the ids written."""

    request: Request
    length: int
    rng: random.Random
    ahead: int = 0
    """What to add to a column to get its position: images in two dimensions take fewer positions than places."""
    response: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


_Leader = tuple[list[Request], int, KeptRow | None]
"""Requests of one and the same dialogue, how many of its ids are known, and the row that holds them."""


class Engine:
    """Slots, prefix store and model. `admit` requests, `step` until no row is left."""

    def __init__(
        self,
        model: Any,
        *,
        end: int,
        banned: Sequence[int],
        images: ImageReader | None,
        store: PrefixStore,
        packed: PackedWeights,
        positions: Positions,
    ) -> None:
        self._model, self._images, self._store, self._packed = model, images, store, packed
        self._positions = positions
        self._device = next(model.parameters()).device
        self._end = end
        self._banned = torch.tensor(sorted(banned), dtype=torch.long, device=self._device)
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self.rows: list[Row] = []

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the model ready to write (evaluation mode, packed weights), and leave it as it was.

        What was read under other weights is forgotten.
        """
        training = [module for module in self._model.modules() if module.training]
        self._model.eval()
        if not self._packed.fresh:
            self.forget(fixed=False)
            self._packed.refresh()
        try:
            with self._packed.in_use():
                yield
        finally:
            for module in training:
                module.training = True

    def forget(self, *, fixed: bool = True) -> None:
        """Drop what was made from the weights; not `fixed`, packed copies of what cannot learn may stay."""
        self._store.clear()
        self._packed.drop(fixed=fixed)

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> None:
        """Read the new requests' contexts and write their first tokens. Equal dialogues are read once."""
        groups: dict[bytes, list[Request]] = {}
        for request in requests:
            groups.setdefault(request.key(len(request.ids)), []).append(request)
        leaders = [(group, *self._find(group[0])) for group in groups.values()]
        leaders.sort(key=_new_tokens)
        while leaders:
            fits = [n for n in range(1, len(leaders) + 1) if n * _new_tokens(leaders[n - 1]) <= PREFILL_TOKENS]
            count = max(fits, default=1)
            self._read(leaders[:count])
            leaders = leaders[count:]

    def _find(self, request: Request) -> tuple[int, KeptRow | None]:
        """The longest known beginning of a request: its length, and the row that holds it.

        A dialogue takes its own row along; a row that went on otherwise stays, as does the first context for the
        other samples of its script.
        """
        for cut in request.cuts:
            key = request.key(cut)
            if (row := self._store.pop(key)) is not None or (row := self._store.find(key)) is not None:
                return cut, row
        row = self._store.find(request.key(request.opening))
        return (0, None) if row is None else (request.opening, row)

    def _read(self, leaders: Sequence[_Leader]) -> None:
        """One prefill pass over the leaders' new ids, then a row for every request: leaders, then followers."""
        first, longest = len(self.rows), max(len(group[0].ids) for group, _, _ in leaders)
        followers = [(slot, request) for slot, (group, _, _) in enumerate(leaders) for request in group[1:]]
        self._reserve(first + len(leaders) + len(followers), longest)
        for slot, (_, known, kept) in enumerate(leaders, first):
            if kept is not None:
                self._cache.put(slot, kept, known)
        tables = [self._table(group[0]) for group, _, _ in leaders]
        logits = self._forward(
            first,
            [group[0].ids[known:] for group, known, _ in leaders],
            [known for _, known, _ in leaders],
            [table[:, known:] for table, (_, known, _) in zip(tables, leaders, strict=True)],
            [image for group, known, _ in leaders for image in group[0].images_after(known)],
        )
        for slot, (group, known, _) in enumerate(leaders, first):
            if known < group[0].opening:
                self._keep_opening(slot, group[0])
        requests = [group[0] for group, _, _ in leaders] + [request for _, request in followers]
        sources = [*range(len(leaders)), *(slot for slot, _ in followers)]
        ahead = [int(table.max()) + 1 - table.shape[1] for table in tables]
        rows = [
            Row(request, len(request.ids), random.Random(request.seed), ahead[source])
            for request, source in zip(requests, sources, strict=True)
        ]
        for slot in range(len(leaders), len(rows)):
            self._cache.copy(first + sources[slot], first + slot, rows[slot].length)
        self.rows += rows
        self._write(rows, logits[torch.tensor(sources, device=self._device)])

    def _table(self, request: Request) -> Tensor:
        images = request.layout.images
        return self._positions.of(request.ids, self._images.grids(images) if self._images is not None else None)

    def _keep_opening(self, slot: int, request: Request) -> None:
        """Samples of one script begin alike: keep the first context for those that come later."""
        self._store.add(request.key(request.opening), self._cache.take(slot, request.opening))

    @torch.inference_mode()
    def step(self) -> None:
        """Every row reads its last token and writes the next one."""
        self._drop_cancelled()
        if not self.rows:
            return
        self._reserve(len(self.rows), max(row.length for row in self.rows) + 1)
        news = [(row.response[-1],) for row in self.rows]
        places = [torch.tensor([[row.length + row.ahead]]) for row in self.rows]
        logits = self._forward(0, news, [row.length for row in self.rows], places, [])
        for row in self.rows:
            row.length += 1
        self._write(self.rows, logits)

    def _reserve(self, rows: int, length: int) -> None:
        self._cache.reserve(rows, length)
        self._store.leave(self._cache.bytes)

    def _forward(
        self,
        first: int,
        news: Sequence[Sequence[int]],
        starts: Sequence[int],
        places: Sequence[Tensor],
        images: Sequence[ImageRef],
    ) -> Tensor:
        """Logits (rows, vocabulary) after each row's new ids, which go to slots `first…` from column `starts` and
        stand at the positions `places` (axes, new)."""
        width = max(len(new) for new in news)
        pads = torch.tensor([width - len(new) for new in news])[:, None]
        columns = torch.arange(width)[None] - pads + torch.tensor(starts)[:, None]
        padding = torch.arange(width)[None] < pads
        ids = torch.tensor([[self._end] * (width - len(new)) + list(new) for new in news])
        # Padding writes to the last column, which nobody sees, and sees the first, so that nothing becomes NaN.
        span = int(columns.max()) + 1
        self._cache.aim(first, columns.masked_fill(padding, -1).to(self._device), span)
        seen = columns.masked_fill(padding, 0).to(self._device)
        visible = torch.arange(span, device=self._device) <= seen[..., None]
        tensors = self._images.tensors(images) if self._images is not None else {}
        take_share()
        return self._packed.run(
            Pass(
                ids=ids.to(self._device),
                visible=visible,
                positions=self._positions.joined(places, width).to(self._device),
                images={key: value.to(self._device) for key, value in tensors.items()},
                cache=self._cache,
            )
        )

    def _write(self, rows: list[Row], logits: Tensor) -> None:
        """Choose each row's next token; rows that ended leave."""
        draws = [Draw(r.request.sampling.temperature, r.request.sampling.top_p, r.rng.random()) for r in rows]
        tokens, logprobs = choose(logits, draws, self._banned)
        ended = []
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.response.append(token)
            row.logprobs.append(logprob)
            if token == self._end or len(row.response) >= row.request.sampling.max_tokens:
                ended.append(row)
        for row in ended:
            self._finish(row)

    def _finish(self, row: Row) -> None:
        request = row.request
        finish = FinishReason.STOP if row.response[-1] == self._end else FinishReason.LENGTH
        ids = (*request.ids, *row.response[:-1])
        key = prefix_key(ids[: row.length], request.images_before(len(request.ids)))
        beginnings = [request.key(length) for length in (*request.cuts, request.opening)]
        self._store.add(key, self._cache.take(self.rows.index(row), row.length), beginnings)
        self._leave(row)
        if request.future.set_running_or_notify_cancel():
            request.future.set_result(Written(tuple(row.response), tuple(row.logprobs), finish))

    def _leave(self, row: Row) -> None:
        """Free the row's slot; the last row moves into it, so that the rows in use stay side by side."""
        slot, last = self.rows.index(row), len(self.rows) - 1
        if slot != last:
            self._cache.copy(last, slot, self.rows[last].length)
            self.rows[slot] = self.rows[last]
        self.rows.pop()
        if not self.rows:
            self._cache.clear()
            self._store.leave(0)

    def _drop_cancelled(self) -> None:
        for row in [row for row in self.rows if row.request.future.cancelled()]:
            self._leave(row)

    def fail(self, requests: Sequence[Request], error: BaseException) -> None:
        """Give the error to these requests and to every row, and start afresh."""
        for request in [*requests, *(row.request for row in self.rows)]:
            with suppress(InvalidStateError):  # it may be cancelled or done already
                request.future.set_exception(error)
        self.rows.clear()
        self._cache.clear()


def _new_tokens(leader: _Leader) -> int:
    group, known, _ = leader
    return len(group[0].ids) - known
