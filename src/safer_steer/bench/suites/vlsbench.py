"""VLSBench: harmless words, harm in the image; single-turn."""

from __future__ import annotations

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.formats import vlsbench

SUITE = FolderSuite(
    "harm that only the image shows",
    vlsbench.NEEDS,
    ("data.json", "data/data.json"),
    one_turn("vlsbench", vlsbench.items),
    single_turn=True,
)
