"""MM-SafetyBench: 13 scenarios, the harm drawn or written in the image; single-turn. All kinds of image, or one."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.formats import Item, Reading, mm_safetybench

PATTERNS = ("processed_questions/*.json", "data/processed_questions/*.json")


def suite(name: str, about: str, *kinds: str) -> FolderSuite:
    """The suite of these kinds of image (`SD`, `SD_TYPO`, `TYPO`)."""

    def items(reading: Reading) -> Iterator[Item]:
        return mm_safetybench.items(reading, kinds)

    return FolderSuite(about, mm_safetybench.NEEDS, PATTERNS, one_turn(name, items), single_turn=True)
