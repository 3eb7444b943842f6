"""VLGuard, its test split: unsafe images, and safe ones with a safe and an unsafe instruction each; single-turn."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.dialogue import Split
from safer_steer.formats import Item, Reading, vlguard

NEEDS = "test.json and test/"


def items(reading: Reading) -> Iterator[Item]:
    """The instructions of the test split."""
    return vlguard.items(reading, Split.TEST)


SUITE = FolderSuite(
    "unsafe images, and unsafe and safe words on safe images",
    NEEDS,
    vlguard.GLOBS[Split.TEST],
    one_turn("vlguard", items),
    single_turn=True,
)
