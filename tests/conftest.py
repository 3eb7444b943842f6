"""Shared pieces of the tests: one thread, small records, and actors that do as they are told."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched at run time, by a test neither
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("machine")  # a busy machine is no failure


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
