"""Many pieces of work at once: `bounded`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from safer_steer.runner import bounded


@pytest.mark.anyio
async def test_every_item_is_yielded_once_with_its_result_and_never_more_run_than_allowed() -> None:
    running = most = taken = yielded = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken += 1
            assert taken - yielded <= 4  # taken only when there is room
            yield number

    async def work(number: int) -> int:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        for _ in range(number * 7 % 5):
            await asyncio.sleep(0)
        running -= 1
        return number * number

    found = []
    async for item, result in bounded(items(), work, 4):
        found.append((item, result))
        yielded += 1
    assert sorted(found) == [(number, number * number) for number in range(50)]
    assert most == 4


@pytest.mark.anyio
async def test_results_come_in_the_order_in_which_the_work_ends() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> None:
        await gates[number].wait()
        if number:
            gates[number - 1].set()

    gates[2].set()
    assert [number async for number, _ in bounded(range(3), work, 3)] == [2, 1, 0]


@pytest.mark.anyio
async def test_the_first_error_is_raised_and_the_rest_cancelled_before_that() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise ValueError("broke")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(ValueError, match="broke"):
        async for _ in bounded(range(3), work, 3):
            pass
    assert sorted(cancelled) == [0, 2]
