"""Every model against every other on the same dialogues, adaptive against static users, and the log-rank tests.

Only what one judge judged is compared. Models that were not asked the same dialogues get no test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from safer_steer.bench.comparison import compare, holm
from safer_steer.bench.evaluate import Protocol
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
    """Two evaluations compared, `b − a`, metric by metric; metrics that cannot be compared are left out.

    `shared` dialogues were played by both.
    """

    a: Result
    b: Result
    figures: dict[str, Difference]
    shared: int


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All of a report's comparisons: `models` within a protocol, `gaps` of a model between protocols."""

    protocols: tuple[str, ...]
    models: tuple[Pair, ...]
    gaps: tuple[Pair, ...]
    log_rank: dict[str, list[LogRank]]

    @property
    def paired(self) -> bool:
        """Whether all that is compared was asked some dialogue that the other was asked too."""
        return all(pair.shared for pair in (*self.models, *self.gaps))

    def pair(self, a: Result, b: Result) -> Pair | None:
        return next((pair for pair in (*self.models, *self.gaps) if pair.a is a and pair.b is b), None)

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


_MARKS: dict[str, Callable[[Protocol], float]] = {
    "safety_pass": lambda of: of.safety_pass,
    "benign_help_pass": lambda of: of.help_pass,
}


def one_mark(metric: Metric, a: Result, b: Result) -> bool:
    """Whether both count the metric under the same pass mark, or it has none."""
    mark = _MARKS.get(metric.key)
    return mark is None or mark(a.summary.of) == mark(b.summary.of)


def comparisons(results: Sequence[Result]) -> Comparisons:
    """Compare everything that can be; p values of a metric are adjusted (Holm) over the pairs of its kind."""
    protocols = _ordered(results)
    metrics = metrics_of(results)
    horizon = common_horizon(results)
    models = [
        (a, b)
        for protocol in protocols
        for a, b in combinations([result for result in results if result.protocol == protocol], 2)
        if a.judge == b.judge
    ]
    by = {(result.model, result.protocol): result for result in results}
    gaps = [
        (a, b)
        for model in dict.fromkeys(result.model for result in results)
        if (a := by.get((model, "static"))) and (b := by.get((model, "adaptive"))) and a.judge == b.judge
    ]
    compared = _compared(models, metrics, horizon)
    tests = {protocol: _tests(protocol, results, compared) for protocol in protocols}
    return Comparisons(tuple(protocols), compared, _compared(gaps, metrics, horizon), tests)


def _tests(protocol: str, results: Sequence[Result], pairs: Sequence[Pair]) -> list[LogRank]:
    """The log-rank tests among models that one judge judged on dialogues they share."""
    mine = [pair for pair in pairs if pair.a.protocol == protocol]
    together = {frozenset((pair.a.label, pair.b.label)) for pair in mine if pair.shared}
    tests = log_ranks({r.label: r.survival_times for r in results if r.protocol == protocol})
    return [test for test in tests if all(frozenset(two) in together for two in combinations(test.models, 2))]


def _ordered(results: Sequence[Result]) -> list[str]:
    seen = list(dict.fromkeys(result.protocol for result in results))
    return sorted(seen, key=lambda name: (PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS), name))


def _compared(pairs: Sequence[tuple[Result, Result]], metrics: Sequence[Metric], horizon: int) -> tuple[Pair, ...]:
    found = [compare(a.outcomes, b.outcomes, horizon) for a, b in pairs]
    fair = [[metric for metric in metrics if one_mark(metric, a, b)] for a, b in pairs]
    for metric in metrics:
        mine = [paired for paired, fit in zip(found, fair, strict=True) if metric in fit and metric.key in paired]
        for paired, p in zip(mine, holm([paired[metric.key].p for paired in mine]), strict=True):
            paired[metric.key] = paired[metric.key].model_copy(update={"p_holm": p})
    return tuple(
        Pair(a, b, {m.key: d for m in fit if (d := change(m, a, b, paired.get(m.key))) is not None}, _shared(a, b))
        for (a, b), fit, paired in zip(pairs, fair, found, strict=True)
    )


def _shared(a: Result, b: Result) -> int:
    mine, theirs = ({(one.key, one.asked) for one in side.outcomes} for side in (a, b))
    return len(mine & theirs)
