"""Every model against every other on the same dialogues, adaptive against static users, and the log-rank tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from safer_steer.bench.comparison import compare, holm
from safer_steer.bench.survival import LogRank, log_ranks
from safer_steer.report.results import (
    PROTOCOLS,
    Difference,
    Metric,
    Result,
    change,
    common_horizon,
    metrics_of,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two evaluations compared, `b − a`, metric by metric; metrics that cannot be compared are left out."""

    a: Result
    b: Result
    figures: dict[str, Difference]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All of a report's comparisons: `models` within a protocol, `gaps` of a model between protocols."""

    protocols: tuple[str, ...]
    models: tuple[Pair, ...]
    gaps: tuple[Pair, ...]
    log_rank: dict[str, list[LogRank]]

    def between(self, metric: Metric, a: Result, b: Result) -> Difference | None:
        pairs = [pair for pair in (*self.models, *self.gaps) if pair.a is a and pair.b is b]
        return pairs[0].figures.get(metric.key) if pairs else None

    def as_json(self) -> dict[str, Any]:
        """For `summary.json`: `comparisons` of models, `gaps` (adaptive − static), `log_rank` per protocol."""
        return {
            "comparisons": [
                {"protocol": pair.a.protocol, "from": pair.a.model, "to": pair.b.model, **_dumped(pair)}
                for pair in self.models
            ],
            "gaps": {pair.a.model: _dumped(pair) for pair in self.gaps},
            "log_rank": {name: [test.model_dump() for test in tests] for name, tests in self.log_rank.items()},
        }


def _dumped(pair: Pair) -> dict[str, Any]:
    return {key: figure.model_dump() for key, figure in pair.figures.items()}


def comparisons(results: Sequence[Result]) -> Comparisons:
    """Compare everything that can be; p values of a metric are adjusted (Holm) over the pairs of its kind."""
    protocols = _ordered(results)
    metrics = metrics_of(results)
    horizon = common_horizon(results)
    models = [
        pair
        for protocol in protocols
        for pair in combinations([result for result in results if result.protocol == protocol], 2)
    ]
    by = {(result.model, result.protocol): result for result in results}
    gaps = [
        (by[model, "static"], by[model, "adaptive"])
        for model in dict.fromkeys(result.model for result in results)
        if (model, "static") in by and (model, "adaptive") in by
    ]
    tests = {}
    for protocol in protocols:
        seen = {r.label: r.survival_times for r in results if r.protocol == protocol}
        tests[protocol] = log_ranks(seen)
    return Comparisons(tuple(protocols), _compared(models, metrics, horizon), _compared(gaps, metrics, horizon), tests)


def _ordered(results: Sequence[Result]) -> list[str]:
    seen = list(dict.fromkeys(result.protocol for result in results))
    return sorted(seen, key=lambda name: (PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS), name))


def _compared(pairs: Sequence[tuple[Result, Result]], metrics: Sequence[Metric], horizon: int) -> tuple[Pair, ...]:
    found = [compare(a.outcomes, b.outcomes, horizon) for a, b in pairs]
    for metric in metrics:
        mine = [paired for paired in found if metric.key in paired]
        for paired, p in zip(mine, holm([paired[metric.key].p for paired in mine]), strict=True):
            paired[metric.key] = paired[metric.key].model_copy(update={"p_holm": p})
    return tuple(
        Pair(a, b, {m.key: d for m in metrics if (d := change(m, a, b, paired.get(m.key))) is not None})
        for (a, b), paired in zip(pairs, found, strict=True)
    )
