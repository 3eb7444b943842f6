"""Slots and the store of prefixes, with literal contents."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.actors.local.cache import COLUMN_STEP, KeptRow, PrefixStore, SlotCache, prefix_key


def states(*rows: list[int]) -> torch.Tensor:
    """(rows, 1 head, tokens, width 1)."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None]


def written(
    cache: SlotCache, first: int, columns: list[list[int]], values: list[list[int]], span: int
) -> list[list[float]]:
    cache.aim(first, torch.tensor(columns), span)
    keys, _ = cache.update(states(*values), states(*values), 0)
    result: list[list[float]] = keys[:, 0, :, 0].tolist()
    return result


def test_rows_of_different_lengths_are_written_in_place() -> None:
    cache = SlotCache(layers=1)
    cache.reserve(2, 4)
    assert written(cache, 0, [[0, 1, 2], [-1, -1, 0]], [[1, 2, 3], [9, 9, 4]], 3) == [[1, 2, 3], [4, 0, 0]]
    assert written(cache, 0, [[3], [1]], [[5], [6]], 4) == [[1, 2, 3, 5], [4, 6, 0, 0]]


def test_growing_keeps_what_was_written() -> None:
    cache = SlotCache(layers=1)
    cache.reserve(1, 2)
    written(cache, 0, [[0, 1]], [[1, 2]], 2)
    cache.reserve(3, COLUMN_STEP)
    assert (cache.rows, cache.columns) == (3, 2 * COLUMN_STEP)
    assert written(cache, 0, [[2]], [[3]], 3) == [[1, 2, 3]]


def test_a_row_moves_out_and_in_and_along() -> None:
    cache = SlotCache(layers=1)
    cache.reserve(3, 3)
    written(cache, 0, [[0, 1, 2]], [[1, 2, 3]], 3)
    kept = cache.take(0, 2)
    cache.copy(0, 1, 3)
    cache.put(2, kept, 2)
    assert written(cache, 0, [[3], [3], [2]], [[7], [8], [9]], 4) == [[1, 2, 3, 7], [1, 2, 3, 8], [1, 2, 9, 0]]
    assert kept.bytes == 2 * 2 * 4


def row(tokens: int) -> KeptRow:
    """A row of 8 bytes a token."""
    return KeptRow(((torch.zeros(1, tokens, 1), torch.zeros(1, tokens, 1)),), tokens)


def test_the_least_recently_used_row_goes_first() -> None:
    store = PrefixStore(limit=24)
    for name in (b"a", b"b", b"c"):
        store.add(name, row(1))
    assert store.find(b"a") is not None
    store.add(b"d", row(1))
    assert [store.find(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    store.leave(16)
    assert (len(store), store.bytes) == (1, 8)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9), st.integers(0, 60))))
def test_the_bytes_are_counted_and_bounded(steps: list[tuple[str, int, int]]) -> None:
    store, kept = PrefixStore(limit=80), dict[str, int]()
    for name, tokens, left in steps:
        store.leave(left)
        store.add(name.encode(), row(tokens))
        kept[name] = tokens
        assert store.bytes == sum(8 * kept[n] for n in kept if store.find(n.encode()) is not None)
        assert store.bytes + left <= 80 or len(store) == 0


def test_a_row_is_found_by_how_it_begins_as_long_as_it_is_kept() -> None:
    store, first, other = PrefixStore(limit=64), row(3), row(2)
    store.add(b"abc", first, [b"a", b"ab"])
    assert store.find(b"ab") is first and store.pop(b"ab") is None
    store.add(b"ad", other, [b"a"])
    assert store.find(b"a") is other and store.find(b"ab") is first
    assert store.pop(b"ad") is other
    assert store.find(b"a") is None  # `abc` begins so too, but the newest said it last
    store.add(b"a", row(1))
    assert store.find(b"ab") is first
    store.add(b"e", row(5))  # `a` goes: `abc` was asked for since
    assert (store.find(b"a"), store.find(b"ab"), store.bytes) == (None, first, 64)
    store.leave(40)
    assert (len(store), store.find(b"ab"), store.bytes) == (1, first, 24)
    store.clear()
    assert (store.find(b"ab"), store.bytes) == (None, 0)


def test_keys_tell_images_apart() -> None:
    assert prefix_key((1, 2), ["a"]) == prefix_key([1, 2], ["a"])
    assert (
        len({prefix_key((1, 2), []), prefix_key((1, 2), ["a"]), prefix_key((12,), []), prefix_key((1, 2), ["b"])}) == 4
    )
