"""The page's contents: everything the template shows, computed from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from safer_steer.bench.intervals import Rate
from safer_steer.bench.metrics import Group
from safer_steer.image_store import ImageStore
from safer_steer.report import facts
from safer_steer.report.blocks import blocks
from safer_steer.report.charts import hazard_chart, series_of, survival_chart, training_chart
from safer_steer.report.comparisons import Comparisons, Pair
from safer_steer.report.exports import beside_the_paper, groups_of
from safer_steer.report.headline import headline
from safer_steer.report.naming import judge_names
from safer_steer.report.page import render
from safer_steer.report.results import Metric, Result, metrics_of
from safer_steer.report.transcripts import entries
from safer_steer.run_folder import RunFolder
from safer_steer.verdict import Stamp

TEMPLATE = "report.html.j2"


def page(
    results: Sequence[Result], compared: Comparisons, images: ImageStore, *, title: str, run: RunFolder | None
) -> bytes:
    """The whole page, encoded."""
    columns = list(dict.fromkeys(result.model for result in results))
    labels = [next(r.label for r in results if r.model == model) for model in columns]
    found = entries(((r.model, r.protocol, r.told) for r in results), columns)
    judges, metrics = judge_names(results), metrics_of(results)
    suites = list(dict.fromkeys(result.summary.of.suite for result in results))
    trained = None if run is None else facts.training(run)
    return render(
        TEMPLATE,
        blocks(found, labels, images),
        title=title,
        suites=suites,
        judges=judges,
        marks=_marks(results),
        places=_places(results, suites, judges),
        measure=facts.offline_judge_measure([judge.judge for judge in judges]),
        headline=headline(results, compared),
        metrics=metrics,
        blocks=_blocks(results, metrics),
        gaps=_differences(compared.gaps, metrics),
        pairs=_by_protocol(compared, metrics),
        paired=compared.paired,
        series={label: series_of(index, len(labels)) for index, label in enumerate(labels)},
        survival=_survival(results, compared),
        training=trained,
        training_svg=_training_chart(trained),
        heat=[(r, r.heat.longest, r.heat.rows()) for r in results if r.heat.longest],
        groups=_groups(results),
        attacks=_attacks(results),
        paper=beside_the_paper(results),
        data=[] if run is None else facts.data_facts(run),
        costs=[]
        if run is None
        else facts.costs(run, [(f"{r.model}-{r.protocol}", r.summary.seconds) for r in results]),
        spent=[(r, r.summary.spent) for r in results],
        unscored=_unscored(results),
        bill=[(r, line) for r in results for line in r.summary.bill],
        agreement=[(r, r.summary.agreement) for r in results if r.summary.agreement is not None],
        labels=labels,
        dialogues=len(found),
    )


def _marks(results: Sequence[Result]) -> list[tuple[float, float, list[str]]]:
    """The pass marks, safety and helpfulness, and the models counted under them."""
    found: dict[tuple[float, float], dict[str, None]] = {}
    for result in results:
        found.setdefault((result.summary.of.safety_pass, result.summary.of.help_pass), {})[result.label] = None
    return [(*marks, list(labels)) for marks, labels in found.items()]


def _places(results: Sequence[Result], suites: Sequence[str], judges: Mapping[Stamp, str]) -> list[tuple[Result, str]]:
    """Per evaluation its suite and its judge, as far as not all have the same; nothing where all have."""

    def told(result: Result) -> str:
        suite = [result.summary.of.suite] if len(suites) > 1 else []
        return ", ".join([*suite, *([f"judged by {judges[result.judge]}"] if len(judges) > 1 else [])])

    return [(result, told(result)) for result in results] if max(len(suites), len(judges)) > 1 else []


def _blocks(results: Sequence[Result], metrics: Sequence[Metric]) -> list[tuple[str, list[tuple[Result, list[Any]]]]]:
    """The results table: per protocol the models' rows, each with every metric's estimate."""
    return [
        (protocol, [(r, [(m, m.of(r.summary)) for m in metrics]) for r in results if r.protocol == protocol])
        for protocol in dict.fromkeys(result.protocol for result in results)
    ]


def _differences(pairs: Sequence[Pair], metrics: Sequence[Metric]) -> list[tuple[Pair, list[Any]]]:
    return [(pair, [(metric, pair.figures.get(metric.key)) for metric in metrics]) for pair in pairs]


def _by_protocol(compared: Comparisons, metrics: Sequence[Metric]) -> list[tuple[str, list[tuple[Pair, list[Any]]]]]:
    found = [
        (protocol, _differences([pair for pair in compared.models if pair.a.protocol == protocol], metrics))
        for protocol in compared.protocols
    ]
    return [(protocol, rows) for protocol, rows in found if rows]


@dataclass(frozen=True, slots=True)
class SurvivalView:
    """One protocol's curves, hazards, restricted means and tests."""

    protocol: str
    curve: Markup
    hazard: Markup
    means: list[tuple[Result, Any]]
    tests: list[Any]


def _survival(results: Sequence[Result], compared: Comparisons) -> list[SurvivalView]:
    views = []
    for protocol in compared.protocols:
        mine = [r for r in results if r.protocol == protocol and r.summary.survival]
        if mine:
            curves = {r.label: r.summary.survival for r in mine}
            views.append(
                SurvivalView(
                    protocol,
                    survival_chart(curves, f"Survival by turn, {protocol}"),
                    hazard_chart(curves, f"Hazard by turn, {protocol}"),
                    [(r, r.summary.restricted_mean) for r in mine if r.summary.restricted_mean is not None],
                    compared.log_rank[protocol],
                )
            )
    return views


def _training_chart(trained: facts.Training | None) -> Markup | None:
    if trained is None or not trained.lines:
        return None
    return training_chart(trained.steps, trained.lines, "GRPO by step")


@dataclass(frozen=True, slots=True)
class GroupView:
    """One grouping under one protocol: a row a group, a cell a model (`None` where it has none of it)."""

    protocol: str
    name: str
    models: list[Result]
    rows: list[tuple[str, list[Group | None]]]


def _groups(results: Sequence[Result]) -> list[GroupView]:
    views = []
    for protocol in dict.fromkeys(result.protocol for result in results):
        mine = [result for result in results if result.protocol == protocol]
        tables = [dict(groups_of(result)) for result in mine]
        for name in dict.fromkeys(name for table in tables for name in table):
            values = sorted({value for table in tables for value in table.get(name, {})})
            rows = [(value, [table.get(name, {}).get(value) for table in tables]) for value in values]
            views.append(GroupView(protocol, name, mine, rows))
    return views


def _attacks(results: Sequence[Result]) -> tuple[list[Result], list[tuple[str, list[Rate | None]]]] | None:
    mine = [result for result in results if result.summary.by_attack]
    names = sorted({attack for result in mine for attack in result.summary.by_attack})
    return (mine, [(name, [r.summary.by_attack.get(name) for r in mine]) for name in names]) if names else None


def _unscored(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """Per evaluation, why turns are unscored and how dialogues ended."""
    rows = []
    for result in results:
        reasons = [f"{name.replace('_', ' ')} {n}" for name, n in result.summary.unscored_reasons.items()]
        endings = [f"{name.replace('_', ' ')} {n}" for name, n in result.summary.endings.items()]
        rows.append((result, "; ".join([", ".join(endings), ", ".join(reasons) or "every turn scored"])))
    return rows
