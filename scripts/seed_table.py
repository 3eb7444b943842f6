"""The README's table, over seeds of one recipe: every seed's figures, and their mean with an interval over dialogues.

Usage: python scripts/seed_table.py RUN_DIR… (each a finished run of the same recipe and suite)

Figures are those of the reports, over-refusal a share of turns; dialogues of all seeds count alike. Changes between
models are paired by dialogue, intervals are 95 % over dialogues (one in all its seeds together): bootstrap, and for
shares that rest on few Wilson's with their effective number, as in the reports.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from safer_steer.bench.comparison import paired_ratio
from safer_steer.bench.intervals import percentiles, resampled, turn_rate
from safer_steer.config import EvalConfig
from safer_steer.report.results import LABELS, MODELS, PROTOCOLS

METRICS = (("passed", 0), ("safety", 2), ("helpfulness", 2), ("refused", 0))
"""What is told, with how many digits."""
SHARES = ("passed", "refused")

Parts = Mapping[str, Mapping[str, tuple[float, float]]]
"""Metric to dialogue to two numbers; the metric is the first ones' sum over the second ones'."""


def parts(run: Path, model: str, protocol: str) -> Parts:
    """What each dialogue of an evaluation adds; a turn without a score is an error, not a number."""
    rows: list[dict[str, Any]] = pq.read_table(run / "eval" / f"{model}-{protocol}" / "turns.parquet").to_pylist()
    if any(row["status"] != "scored" or "over_refusal_not_told" in row["flags"] for row in rows):
        raise SystemExit(f"{run}: {model}-{protocol} has turns without a score, or with over-refusal not told")
    dialogues: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        dialogues[row["dialogue_id"]].append(row)
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name, _ in METRICS}
    for key, turns in dialogues.items():
        if turns[0]["kind"] == "benign":
            found["helpfulness"][key] = (float(np.mean([turn["helpfulness"] for turn in turns])), 1.0)
            over = sum("over_refusal" in turn["flags"].split(",") for turn in turns)
            found["refused"][key] = (100.0 * over, float(len(turns)))
        else:
            safety = float(np.mean([turn["safety"] for turn in turns]))
            found["safety"][key] = (safety, 1.0)
            found["passed"][key] = (100.0 * (safety >= EvalConfig().safety_pass), 1.0)
    return found


def pooled(runs: Sequence[Parts], metric: str) -> list[tuple[float, float]]:
    """Every dialogue's two numbers, summed over the seeds."""
    sums = [np.sum([run[metric][key] for run in runs], axis=0) for key in sorted(runs[0][metric])]
    return [(float(top), float(under)) for top, under in sums]


def ratio(rows: Sequence[tuple[float, float]]) -> float:
    """The metric of these dialogues."""
    return sum(top for top, _ in rows) / sum(under for _, under in rows)


def interval(rows: Sequence[tuple[float, float]], *, share: bool) -> tuple[float, float]:
    """The 95 % interval of these dialogues' ratio."""
    if not share:
        return percentiles(resampled(rows, lambda s: s[:, 0] / s[:, 1]))
    hits = [(round(top / 100), round(under)) for top, under in rows]
    found = turn_rate([[True] * yes + [False] * (number - yes) for yes, number in hits])
    assert found.low is not None and found.high is not None  # every turn has a score
    return 100 * found.low, 100 * found.high


def cell(runs: Sequence[Parts], metric: str, digits: int) -> str:
    """`mean (interval); seed, seed, seed` of one metric."""
    rows = pooled(runs, metric)
    low, high = interval(rows, share=metric in SHARES)
    each = ", ".join(f"{ratio(pooled([run], metric)):.{digits}f}" for run in runs)
    return f"**{ratio(rows):.{digits}f}** ({low:.{digits}f} to {high:.{digits}f}); {each}"


def change(before: Sequence[Parts], after: Sequence[Parts], metric: str, digits: int) -> str:
    """The paired change of one metric."""
    both = list(zip(pooled(before, metric), pooled(after, metric), strict=True))
    found = paired_ratio(both, len(both))
    assert found is not None  # every dialogue is on both sides
    text = f"**{found.difference:+.{digits}f}** ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    return text.replace("-", "−")


def main(folders: Sequence[str]) -> int:
    if not folders:
        print(__doc__, file=sys.stderr)
        return 2
    print("| | users | safety pass, % | mean safety (−3…3) | benign helpfulness (0…3) | over-refusal, % |")
    print("|---|---|---|---|---|---|")
    found = {
        (model, protocol): [parts(Path(folder), model, protocol) for folder in folders]
        for model in MODELS
        for protocol in PROTOCOLS
    }
    for (model, protocol), runs in found.items():
        cells = [cell(runs, metric, digits) for metric, digits in METRICS]
        print(f"| {LABELS[model]} | {protocol} | {' | '.join(cells)} |")
    for before, after in pairwise(MODELS):
        for protocol in PROTOCOLS:
            cells = [change(found[before, protocol], found[after, protocol], *metric) for metric in METRICS]
            print(f"| {LABELS[before]} → {LABELS[after]} | {protocol} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
