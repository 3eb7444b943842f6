"""Shared pieces of the tests: one thread, small records, and actors that do as they are told."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
