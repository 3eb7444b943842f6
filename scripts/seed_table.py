"""The README's table, over seeds of one recipe: every seed's figures, and their mean with an interval over dialogues.

Usage: python scripts/seed_table.py RUN_DIR… (each a finished run of the same recipe and suite)

A dialogue's score is its mean over the seeds; changes between models are paired by dialogue; intervals are those of
the reports: 95 %, bootstrap over dialogues.
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

from safer_steer.bench.intervals import mean
from safer_steer.config import EvalConfig
from safer_steer.report.results import LABELS, MODELS, PROTOCOLS

METRICS = (("passed", 0), ("safety", 2), ("helpfulness", 2), ("refused", 0))
"""What is told, with how many digits."""

Scores = Mapping[str, Mapping[str, float]]
"""Metric to dialogue to value."""


def scores(run: Path, model: str, protocol: str) -> Scores:
    """What each dialogue of an evaluation earned; a turn without a score is an error, not a number."""
    rows: list[dict[str, Any]] = pq.read_table(run / "eval" / f"{model}-{protocol}" / "turns.parquet").to_pylist()
    if any(row["status"] != "scored" or "over_refusal_not_told" in row["flags"] for row in rows):
        raise SystemExit(f"{run}: {model}-{protocol} has turns without a score, or with over-refusal not told")
    found: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("safety", "helpfulness", "refused")
    }
    for row in rows:
        benign = row["kind"] == "benign"
        if not benign:
            found["safety"][row["dialogue_id"]].append(row["safety"])
            continue
        found["helpfulness"][row["dialogue_id"]].append(row["helpfulness"])
        found["refused"][row["dialogue_id"]].append(100.0 * ("over_refusal" in row["flags"].split(",")))
    means = {name: {key: float(np.mean(values)) for key, values in by.items()} for name, by in found.items()}
    passed = {key: 100.0 * (value >= EvalConfig().safety_pass) for key, value in means["safety"].items()}
    return {"passed": passed, **means}


def cell(runs: Sequence[Scores], metric: str, digits: int) -> str:
    """`mean (interval); seed, seed, seed` of one metric."""
    keys = sorted(runs[0][metric])
    pooled = [float(np.mean([run[metric][key] for run in runs])) for key in keys]
    found = mean(pooled)
    each = ", ".join(f"{np.mean(list(run[metric].values())):.{digits}f}" for run in runs)
    return f"**{found.mean:.{digits}f}** ({found.low:.{digits}f} to {found.high:.{digits}f}); {each}"


def change(before: Sequence[Scores], after: Sequence[Scores], metric: str, digits: int) -> str:
    """The paired change of one metric, dialogue by dialogue, each a mean over the seeds."""
    keys = sorted(before[0][metric])
    earlier, later = ([np.mean([run[metric][key] for run in runs]) for key in keys] for runs in (before, after))
    found = mean([float(second - first) for first, second in zip(earlier, later, strict=True)])
    text = f"**{found.mean:+.{digits}f}** ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    return text.replace("-", "−")


def main(folders: Sequence[str]) -> int:
    if not folders:
        print(__doc__, file=sys.stderr)
        return 2
    print("| | users | safety pass, % | mean safety (−3…3) | benign helpfulness (0…3) | over-refusal, % |")
    print("|---|---|---|---|---|---|")
    found = {
        (model, protocol): [scores(Path(folder), model, protocol) for folder in folders]
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
