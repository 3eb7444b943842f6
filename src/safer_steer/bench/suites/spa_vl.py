"""SPA-VL, the harm part of its test split; single-turn."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.dialogue import Split
from safer_steer.formats import Item, Reading, spa_vl

NEEDS = "the release's test/harm*.parquet"


def items(reading: Reading) -> Iterator[Item]:
    """The questions of the harm part."""
    return spa_vl.items(reading, Split.TEST)


SUITE = FolderSuite(
    "harmful questions on images", NEEDS, spa_vl.GLOBS[Split.TEST], one_turn("spa-vl", items), single_turn=True
)
