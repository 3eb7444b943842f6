"""The two reports: of one evaluation, and of a whole run with all its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safer_steer.bench.metrics import Group
from safer_steer.config import Recipe
from safer_steer.errors import StageError
from safer_steer.report import facts
from safer_steer.report.charts import series_of, survival_chart, training_chart
from safer_steer.report.page import render
from safer_steer.report.results import (
    METRICS,
    MODELS,
    PROTOCOLS,
    Metric,
    Result,
    difference,
    headline,
    read_result,
)
from safer_steer.report.transcripts import dialogues, thumbnail_styles
from safer_steer.store import ImageStore, RunFolder, write_atomic, write_json

TEMPLATE = "report.html.j2"


def write_eval_report(folder: Path, images: ImageStore) -> Path:
    """One evaluation's `report.html` from its `summary.json` and transcripts; returns its path."""
    result = read_result(folder)
    title = f"{result.label}: {result.summary.of.suite}, {result.protocol}"
    path = folder / "report.html"
    write_atomic(path, _page([result], images, title=title, run=None))
    return path


def write_run_report(run: RunFolder, *, recipe: Recipe) -> Path:
    """The run's `report.html` and `summary.json` from whatever was evaluated; raises `StageError` if nothing was."""
    results = run_results(run)
    if not results:
        hint = "run `safer-steer eval` or `safer-steer demo` with the same --out first"
        raise StageError("no evaluation is finished", where=run.root / "eval", hint=hint)
    write_json(run.root / "summary.json", run_summary(run, results, recipe))
    path = run.root / "report.html"
    write_atomic(path, _page(results, run.images, title=f"SaFeR-Steer: {recipe.name}", run=run))
    return path


def run_results(run: RunFolder) -> list[Result]:
    """The finished evaluations of the run, protocol by protocol, models in the order of their making."""
    return [
        read_result(folder, model, protocol)
        for protocol in PROTOCOLS
        for model in MODELS
        if ((folder := run.root / "eval" / f"{model}-{protocol}") / "summary.json").exists()
    ]


def run_summary(run: RunFolder, results: Sequence[Result], recipe: Recipe) -> dict[str, Any]:
    """`summary.json` of a run: every number the report shows."""
    trained = facts.training(run)
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "headline": headline(results),
        "evaluations": {f"{r.model}-{r.protocol}": r.summary.contract() for r in results},
        "differences": _differences(results),
        "gaps": {
            model: {m.key: found.model_dump() for m in METRICS if (found := difference(m.of(a), m.of(b))) is not None}
            for model, a, b in _gap_pairs(results)
        },
        "grpo": None if trained is None else {"step": trained.steps, **trained.lines},
        "stages": [{"name": c.name, "seconds": c.seconds, "peak_mb": c.peak_mb} for c in _costs(run, results)],
    }


def _differences(results: Sequence[Result]) -> dict[str, Any]:
    """Last model minus first, per protocol and metric."""
    found: dict[str, Any] = {}
    for protocol in dict.fromkeys(result.protocol for result in results):
        chain = [result for result in results if result.protocol == protocol]
        if len(chain) > 1:
            pairs = ((m.key, difference(m.of(chain[0].summary), m.of(chain[-1].summary))) for m in METRICS)
            figures = {key: value.model_dump() for key, value in pairs if value is not None}
            found[protocol] = {"from": chain[0].model, "to": chain[-1].model, **figures}
    return found


def _gap_pairs(results: Sequence[Result]) -> list[tuple[str, Any, Any]]:
    by = {(result.model, result.protocol): result.summary for result in results}
    models = dict.fromkeys(result.model for result in results)
    return [
        (model, by[model, "static"], by[model, "adaptive"])
        for model in models
        if (model, "static") in by and (model, "adaptive") in by
    ]


def _costs(run: RunFolder, results: Sequence[Result]) -> list[facts.StageCost]:
    return facts.costs(run, [(f"{r.model}-{r.protocol}", r.summary.seconds) for r in results])


def _page(results: Sequence[Result], images: ImageStore, *, title: str, run: RunFolder | None) -> str:
    columns = sorted({r.model for r in results}, key=lambda m: (MODELS.index(m) if m in MODELS else len(MODELS), m))
    labels = [next(r.label for r in results if r.model == model) for model in columns]
    views = dialogues(results, columns)
    of = results[0].summary.of
    trained = None if run is None else facts.training(run)
    last = [result for result in results if result.model == columns[-1]]
    return render(
        TEMPLATE,
        extra_style=thumbnail_styles((view.script for view in views), images),
        title=title,
        of=of,
        measure=facts.offline_judge_measure(of.judge.judge),
        headline=headline(results),
        metrics=METRICS,
        blocks=_blocks(results),
        gaps=_gap_rows(results),
        columns=list(zip(range(len(columns)), labels, strict=True)),
        series={label: series_of(index, len(labels)) for index, label in enumerate(labels)},
        survival=_survival_charts(results),
        training=trained,
        training_svg=_training_chart(trained),
        heat=[(result, *facts.heat_map(result.rollouts)) for result in last],
        last_label=labels[-1],
        groups=[(result, _group_rows(result)) for result in last],
        data=[] if run is None else facts.data_facts(run),
        costs=[] if run is None else _costs(run, results),
        unscored=_unscored(results),
        dialogues=views,
        protocols=list(dict.fromkeys(view.protocol for view in views)),
        kinds=sorted({view.kind for view in views}),
    )


def _blocks(results: Sequence[Result]) -> list[tuple[str, list[tuple[Result, list[tuple[Metric, Any]]]]]]:
    """The results table: per protocol the models' rows, each with every metric's estimate."""
    return [
        (
            protocol,
            [(r, [(m, m.of(r.summary)) for m in METRICS]) for r in results if r.protocol == protocol],
        )
        for protocol in dict.fromkeys(result.protocol for result in results)
    ]


def _gap_rows(results: Sequence[Result]) -> list[tuple[str, list[tuple[Metric, Any]]]]:
    labels = {result.model: result.label for result in results}
    return [
        (labels[model], [(m, difference(m.of(a), m.of(b))) for m in METRICS]) for model, a, b in _gap_pairs(results)
    ]


def _survival_charts(results: Sequence[Result]) -> list[tuple[str, Markup]]:
    charts = []
    for protocol in dict.fromkeys(result.protocol for result in results):
        curves = {r.label: r.summary.survival for r in results if r.protocol == protocol and r.summary.survival}
        if curves:
            charts.append((protocol, survival_chart(curves, f"Survival by turn, {protocol}")))
    return charts


def _training_chart(trained: facts.Training | None) -> Markup | None:
    if trained is None or not trained.lines:
        return None
    return training_chart(trained.steps, trained.lines, "GRPO by step")


def _group_rows(result: Result) -> list[tuple[str, list[tuple[str, Group]]]]:
    summary = result.summary
    tables = (("kind", summary.by_kind), ("category", summary.by_category), ("strategy", summary.by_strategy))
    return [(name, list(groups.items())) for name, groups in tables if groups]


def _unscored(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """Per evaluation, why turns are unscored and how dialogues ended."""
    rows = []
    for result in results:
        reasons = [f"{name.replace('_', ' ')} {n}" for name, n in result.summary.unscored_reasons.items()]
        endings = [f"{name.replace('_', ' ')} {n}" for name, n in result.summary.endings.items()]
        rows.append((result, "; ".join([", ".join(endings), ", ".join(reasons) or "every turn scored"])))
    return rows
