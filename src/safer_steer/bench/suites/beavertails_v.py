"""BeaverTails-V, its evaluation split; single-turn."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.dialogue import Split
from safer_steer.formats import Item, Reading, beavertails_v

NEEDS = "the release's data/CATEGORY/evaluation*.parquet"


def items(reading: Reading) -> Iterator[Item]:
    """The questions of the evaluation split."""
    return beavertails_v.items(reading, Split.TEST)


SUITE = FolderSuite(
    "harmful questions on images, 20 categories",
    NEEDS,
    beavertails_v.GLOBS[Split.TEST],
    one_turn("beavertails-v", items),
    single_turn=True,
)
