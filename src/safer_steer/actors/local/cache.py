"""Key/value memory: slots for the dialogues being written, and a store that carries dialogues across turns.

A slot is a row of one preallocated buffer per layer. Rows have their own lengths and are written in place: column j
of a row is its j-th token, whatever the other rows do, and a query at position p sees the columns up to p.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMN_STEP = 64
"""Buffers grow by this many tokens at least, so that they are not copied at every step."""


@dataclass(slots=True)
class Target:
    """Where the next forward pass writes: row `first + i`, column `columns[i, j]` (-1: nowhere), seeing `span`."""

    first: int
    columns: Tensor
    span: int


class SlotLayer(CacheLayerMixin):
    """One layer's buffers, (rows, heads, columns, width) each. The last column takes what padding writes."""

    is_sliding = False

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._empty(key_states)
        self.values = self._empty(value_states)
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        return like.new_zeros(self._owner.rows, heads, self._owner.columns, width)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (n, heads, new, width) states where the owner aims; return each row's columns up to the span."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        target = self._owner.target
        stop = target.first + key_states.shape[0]
        rows = torch.arange(target.first, stop, device=key_states.device)[:, None]
        self.keys[rows, :, target.columns] = key_states.transpose(1, 2)
        self.values[rows, :, target.columns] = value_states.transpose(1, 2)
        return self.keys[target.first : stop, :, : target.span], self.values[target.first : stop, :, : target.span]

    def resize(self, rows: int, columns: int) -> None:
        """Grow to the owner's new shape, keeping `rows` rows and `columns` columns."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._empty(old)
            new[:rows, :, :columns] = old[:rows, :, :columns]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.target.span, 0

    def get_seq_length(self) -> int:
        return self._owner.target.span

    def get_max_length(self) -> int:
        return self._owner.columns

    get_max_cache_shape = get_max_length  # what transformers 5.5 to 5.10 call it


@dataclass(frozen=True, slots=True)
class KeptRow:
    """The keys and values of one sequence's first `length` tokens, per layer (heads, length, width)."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int

    @property
    def bytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in self.layers)


class SlotCache(Cache):
    """The slots, as the cache that a transformers model writes to. `aim` before every forward pass."""

    def __init__(self, layers: int) -> None:
        self.rows, self.columns = 0, 0
        self.target = Target(0, torch.empty(0, 0, dtype=torch.long), 0)
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens; what stands in the buffers stays."""
        if rows <= self.rows and length < self.columns:
            return
        before = (self.rows, self.columns)
        self.rows = max(rows, self.rows)
        if length >= self.columns:
            self.columns = -(-(length + 1) // COLUMN_STEP) * COLUMN_STEP
        for layer in self._slots():
            layer.resize(*before)

    def aim(self, first: int, columns: Tensor, span: int) -> None:
        """Say where the next forward pass writes, see `Target`."""
        self.target = Target(first, columns, span)

    @property
    def bytes(self) -> int:
        """What the buffers take."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._slots())

    def take(self, row: int, length: int) -> KeptRow:
        """A copy of the first `length` tokens of a row."""
        copies = ((x.keys[row, :, :length].clone(), x.values[row, :, :length].clone()) for x in self._slots())
        return KeptRow(tuple(copies), length)

    def put(self, row: int, kept: KeptRow, length: int) -> None:
        """Write the first `length` tokens of `kept` to the start of a row."""
        for layer, (keys, values) in zip(self.layers, kept.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]

    def copy(self, source: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of one row to another."""
        for layer in self._slots():
            layer.keys[row, :, :length] = layer.keys[source, :, :length]
            layer.values[row, :, :length] = layer.values[source, :, :length]

    def clear(self) -> None:
        """Give the buffers back."""
        self.rows, self.columns = 0, 0
        for layer in self._slots():
            layer.keys, layer.values = layer.keys.new_empty(0), layer.values.new_empty(0)
            layer.is_initialized = False

    def _slots(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if layer.is_initialized]


class PrefixStore:
    """Keys and values of dialogues between their turns, by what was read; the least recently used go first.

    `limit` bounds the bytes of the store and of what it must `leave` to others together.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._left = limit, 0
        self._rows: OrderedDict[bytes, KeptRow] = OrderedDict()
        self._beginnings: dict[bytes, tuple[bytes, ...]] = {}
        self._begun: dict[bytes, bytes] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, key: bytes) -> KeptRow | None:
        """The row kept under `key`, or one that begins so; it stays."""
        key = key if key in self._rows else self._begun.get(key, key)
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def pop(self, key: bytes) -> KeptRow | None:
        """The row kept under `key`, which leaves."""
        row = self._rows.pop(key, None)
        if row is not None:
            self.bytes -= row.bytes
            for beginning in self._beginnings.pop(key):
                if self._begun.get(beginning) == key:
                    del self._begun[beginning]
        return row

    def add(self, key: bytes, row: KeptRow, beginnings: Sequence[bytes] = ()) -> None:
        """Keep `row`, to be found by the keys of its `beginnings` too, dropping others where the limit asks for it."""
        self.pop(key)
        self._rows[key], self._beginnings[key] = row, tuple(beginnings)
        self._begun.update(dict.fromkeys(beginnings, key))
        self.bytes += row.bytes
        self._shrink()

    def leave(self, others: int) -> None:
        """Leave this many bytes of the limit to the dialogues being written."""
        self._left = others
        self._shrink()

    def _shrink(self) -> None:
        while self._rows and self.bytes + self._left > self._limit:
            self.pop(next(iter(self._rows)))

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self._rows.clear()
        self._beginnings.clear()
        self._begun.clear()
        self.bytes = 0


def prefix_key(ids: Sequence[int], images: Sequence[str]) -> bytes:
    """What a prefix is kept under: its ids and its images' sha256 (places look alike whatever they show)."""
    digest = hashlib.sha256(array("q", ids).tobytes())
    digest.update("".join(images).encode())
    return digest.digest()
