"""Cores are shared by what computes at the same time, and only then."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from safer_steer.actors import cores


def in_thread(work: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def shared() -> int:
    cores.take_share()
    return torch.get_num_threads()


def alone() -> int:
    cores.take_one()
    return torch.get_num_threads()


def test_each_takes_its_share_and_all_of_it_when_alone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CORES", 4)

    def work() -> int:
        with cores.computing():
            before = shared()
            with cores.computing():
                between = shared()
            return before * 100 + between * 10 + shared()

    before = torch.get_num_threads()
    try:
        assert in_thread(work) == 424
        assert in_thread(alone) == 1
        assert in_thread(shared) == 4
        with cores.computing(), cores.computing(), cores.computing(), cores.computing(), cores.computing():
            assert in_thread(shared) == 1
    finally:
        torch.set_num_threads(before)
