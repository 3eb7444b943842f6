"""A report's figures as tables, for CSV and LaTeX: results, groups, survival, comparisons, cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from safer_steer.bench.metrics import Group
from safer_steer.report.comparisons import Comparisons, Pair
from safer_steer.report.naming import judge_names
from safer_steer.report.paper import AVERAGE, paper_results, suites_of
from safer_steer.report.results import Result, metrics_of
from safer_steer.report.tables import Cell, Table

GROUPINGS = ("suite", "kind", "category", "strategy")
_INTERVAL = ("low", "high", "scored", "unscored")


def result_tables(results: Sequence[Result], compared: Comparisons) -> list[Table]:
    """All of them; figures are fractions and means as computed, not rounded."""
    return [
        _results(results),
        _groups(results),
        _attacks(results),
        _survival(results),
        _comparisons(compared),
        _log_rank(compared),
        _spent(results),
        _bill(results),
        *beside_the_paper(results),
    ]


def _results(results: Sequence[Result]) -> Table:
    metrics, judges = metrics_of(results), judge_names(results)
    columns = ["protocol", "model", "suite", "judge", "dialogues", "turns", "turns unscored", "broke off"]
    columns += [f"{m.key} {part}".rstrip() for m in metrics for part in ("", *_INTERVAL)]
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        counts = result.summary.overall.counts
        row: list[Cell] = [
            result.protocol,
            result.label,
            result.summary.of.suite,
            judges[result.judge],
            counts.dialogues,
            counts.turns,
            counts.unscored,
            counts.failed,
        ]
        for metric in metrics:
            found = metric.of(result.summary)
            row += [found.value, found.low, found.high, found.scored, found.unscored]
        rows.append(tuple(row))
    return Table("results", "Results with 95 % intervals", tuple(columns), tuple(rows))


def groups_of(result: Result) -> Iterator[tuple[str, dict[str, Group]]]:
    """The groupings of an evaluation that tell anything: more than one group, or a named suite."""
    for name in GROUPINGS:
        found: dict[str, Group] = getattr(result.summary, f"by_{name}")
        if found:
            yield name, found


def _groups(results: Sequence[Result]) -> Table:
    figures = ("safety_pass", "helpfulness_pass", "safety", "helpfulness", "over_refusals")
    columns = ["protocol", "model", "grouping", "group", "dialogues", "turns", "turns unscored", "broke off"]
    columns += [f"{figure} {part}".rstrip() for figure in figures for part in ("", *_INTERVAL)]
    rows = [
        (result.protocol, result.label, name, value, *_counted(group), *(c for f in figures for c in _cells(group, f)))
        for result in results
        for name, groups in groups_of(result)
        for value, group in groups.items()
    ]
    return Table("groups", "Results by suite, kind, category and strategy", tuple(columns), tuple(rows))


def _counted(group: Group) -> tuple[int, ...]:
    counts = group.counts
    return counts.dialogues, counts.turns, counts.unscored, counts.failed


def _cells(group: Group, figure: str) -> tuple[Cell, ...]:
    found: Any = getattr(group, figure)
    value = found.rate if hasattr(found, "rate") else found.mean
    return value, found.low, found.high, found.scored, found.unscored


def _attacks(results: Sequence[Result]) -> Table:
    columns = ("protocol", "model", "attack", "turns held", *_INTERVAL, "dialogues")
    rows = [
        (r.protocol, r.label, attack, f.rate, f.low, f.high, f.scored, f.unscored, f.clusters)
        for r in results
        for attack, f in r.summary.by_attack.items()
    ]
    return Table("attacks", "Share of turns that held, by the tutor's attack", columns, tuple(rows))


def _survival(results: Sequence[Result]) -> Table:
    columns = (
        "protocol", "model", "turn", "at risk", "failures", "survival", "low", "high", "hazard", "hazard low",
        "hazard high",
    )  # fmt: skip
    rows = [
        (
            result.protocol, result.label, point.turn, point.at_risk, point.failures, point.survival, point.low,
            point.high, point.hazard, point.hazard_low, point.hazard_high,
        )
        for result in results
        for point in result.summary.survival
    ]  # fmt: skip
    return Table("survival", "Kaplan–Meier survival and hazard by turn, 95 % bands", columns, tuple(rows))


def _comparisons(compared: Comparisons) -> Table:
    columns = (
        "protocol", "from", "to", "metric", "difference", "low", "high", "p", "p holm", "test", "dialogues", "left out",
    )  # fmt: skip

    def rows(pair: Pair) -> Iterator[tuple[Cell, ...]]:
        same = pair.a.protocol == pair.b.protocol
        place = pair.a.protocol if same else f"{pair.b.protocol} − {pair.a.protocol}"
        for key, found in pair.figures.items():
            test = "independent" if not found.paired else "McNemar" if found.only_a is not None else "paired bootstrap"
            ends = (found.value, found.low, found.high, found.p, found.p_holm)
            yield place, pair.a.label, pair.b.label, key, *ends, test, found.dialogues, found.left_out

    every = tuple(row for pair in (*compared.models, *compared.gaps) for row in rows(pair))
    return Table(
        "comparisons",
        "Differences, 95 % intervals; paired by dialogue but where the test says independent",
        columns,
        every,
    )


def _log_rank(compared: Comparisons) -> Table:
    rows = tuple(
        (protocol, " / ".join(test.models), test.statistic, test.degrees, test.p)
        for protocol, tests in compared.log_rank.items()
        for test in tests
    )
    columns = ("protocol", "models", "chi square", "degrees of freedom", "p")
    return Table("log_rank", "Log-rank tests of equal hazards", columns, rows)


def _spent(results: Sequence[Result]) -> Table:
    columns = (
        "protocol", "model", "answers", "prompt tokens", "completion tokens", "answers without counts",
        "median seconds", "p95 seconds", "wall seconds",
    )  # fmt: skip
    rows = []
    for r in results:
        s = r.summary.spent
        tokens = (None, None) if s.untold == s.answers else (s.prompt_tokens, s.completion_tokens)
        times = (s.median_seconds, s.p95_seconds, r.summary.seconds)
        rows.append((r.protocol, r.label, s.answers, *tokens, s.untold, *times))
    return Table("cost", "Tokens and time of the model under test", columns, tuple(rows))


def _bill(results: Sequence[Result]) -> Table:
    columns = (
        "protocol", "model", "role", "asked", "calls", "from the cache", "prompt tokens", "completion tokens",
        "calls without counts", "cost", "currency", "asked without",
    )  # fmt: skip
    rows = [
        (
            r.protocol, r.label, line.role, line.model, line.calls, line.cached, line.prompt_tokens,
            line.completion_tokens, line.uncounted, line.cost, line.currency, ", ".join(line.without) or None,
        )
        for r in results
        for line in r.summary.bill
    ]  # fmt: skip
    return Table("bill", "Calls to servers, by role", columns, tuple(rows))


def beside_the_paper(results: Sequence[Result]) -> list[Table]:
    """The paper's tables 2 and 3 on the suites this run has, this run's static rows first; rates in per cent."""
    static = [result for result in results if result.protocol == "static"]
    names = suites_of(name for result in static for name in result.summary.by_suite)
    made = []
    for number, protocol in ((2, "single-turn"), (3, "multi-turn")):
        printed = [r for r in paper_results() if r.table == number and r.suite != AVERAGE]
        suites = [s for s in dict.fromkeys(r.suite for r in printed) if s in names.values()]
        if not suites:
            continue
        ours = {theirs: mine for mine, theirs in names.items()}
        rows: list[tuple[Cell, ...]] = []
        for result in static:
            groups = [result.summary.by_suite.get(ours[suite]) for suite in suites]
            if any(group is not None for group in groups):
                rows.append(("this run", result.label, *(cell for group in groups for cell in _rates(group))))
        for model, method in dict.fromkeys((r.model, r.method) for r in printed):
            cells = {r.suite: r for r in printed if (r.model, r.method) == (model, method)}
            rows.append((model, method, *(c for s in suites for c in (cells[s].safety, cells[s].helpfulness, None))))
        columns = ("model", "method", *(f"{s} {part}" for s in suites for part in ("safety", "helpfulness", "scored")))
        made.append(
            Table(f"beside_paper_{number}", f"Beside the paper's table {number}, {protocol}, %", columns, tuple(rows))
        )
    return made


def _rates(group: Group | None) -> tuple[Cell, ...]:
    if group is None:
        return None, None, None
    safe, helped = group.safety_pass.rate, group.helpfulness_pass.rate
    return (
        None if safe is None else 100 * safe, None if helped is None else 100 * helped, group.safety_pass.scored,
    )  # fmt: skip
