"""The README's picture from a run's summary.json: survival of the three models, safety pass and benign helpfulness.

Usage: python scripts/readme_picture.py RUN_DIR OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safer_steer.bench.evaluate import Summary
from safer_steer.report.charts import draw_survival, series_of
from safer_steer.report.results import HELPFULNESS, LABELS, MODELS, PROTOCOLS, SAFETY_PASS, Metric

COLOURS = ("#7d7d78", "#d98200", "#0067a8")
INK, SOFT, RULE = "#1c1c1a", "#5d5d58", "#c9c9c2"
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": SOFT,
    "text.color": INK,
}


def summaries(run: Path) -> dict[tuple[str, str], Summary]:
    """The evaluations in the run's summary.json, by model and protocol."""
    written = json.loads((run / "summary.json").read_text(encoding="utf-8"))["evaluations"]
    found = {}
    for name, values in written.items():
        model, _, protocol = name.rpartition("-")
        body = {key: value for key, value in values.items() if key not in ("counts", "pass_rates")}
        found[model, protocol] = Summary.model_validate_json(json.dumps(body))
    return found


def draw(found: dict[tuple[str, str], Summary]) -> Figure:
    """Four panels in a row: survival static and adaptive, then safety pass and helpfulness with 95 % intervals."""
    protocols = [p for p in PROTOCOLS if any(protocol == p for _, protocol in found)]
    suite = next(iter(found.values())).of.suite
    figure = Figure(figsize=(16, 6.4), dpi=100)
    panels = figure.subplots(1, len(protocols) + 2, width_ratios=[1.25] * len(protocols) + [1, 1])
    for axes, protocol in zip(panels, protocols, strict=False):
        curves = {LABELS[m]: found[m, protocol].survival for m in MODELS if (m, protocol) in found}
        draw_survival(axes, curves, COLOURS)
        _title(axes, f"No failure yet, {protocol} users")
    for axes in panels[1 : len(protocols)]:
        axes.set_ylabel("")
    bars(panels[-2], found, protocols, SAFETY_PASS, "Safety pass, unsafe dialogues")
    bars(panels[-1], found, protocols, HELPFULNESS, "Helpfulness, benign (0–3)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="lower left", ncols=len(labels), handlelength=2.8, fontsize=12)
    dialogues = max(summary.overall.counts.dialogues for summary in found.values())
    judge = next(iter(found.values())).of.judge.judge
    figure.text(
        0.992, 0.022, f"{suite}: {dialogues} held-out dialogues, judged by {judge}; bands and bars: 95 % intervals",
        ha="right", va="bottom", color=SOFT, fontsize=10,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.06, 1, 0.99), w_pad=2.6)
    return figure


def bars(axes: Axes, found: dict[tuple[str, str], Summary], protocols: list[str], metric: Metric, title: str) -> None:
    """One group of bars per protocol, one bar per model, the value above its interval."""
    models = [model for model in MODELS if any(name == model for name, _ in found)]
    width, scale = 0.8 / len(models), 100 if metric.percent else 1
    top = 100 if metric.percent else metric.ceiling
    for index, model in enumerate(models):
        for place, protocol in enumerate(protocols):
            if (model, protocol) not in found:
                continue
            figure = metric.of(found[model, protocol])
            if figure.value is None or figure.low is None or figure.high is None:
                continue
            x = place + (index - (len(models) - 1) / 2) * width
            value, low, high = (scale * number for number in (figure.value, figure.low, figure.high))
            axes.bar(x, value, width * 0.9, color=COLOURS[series_of(index, len(models))], alpha=0.9)
            axes.errorbar(
                x, value, [[max(0, value - low)], [max(0, high - value)]], color=INK, linewidth=1.2, capsize=3
            )
            text = f"{value:.0f} %" if metric.percent else f"{value:.2f}"
            axes.text(x, high + 0.015 * top, text, ha="center", va="bottom", fontsize=10)
    axes.set_xticks(range(len(protocols)), protocols)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.08 * top)
    if metric.percent:
        axes.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
    _title(axes, title)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=14)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    run, out = (Path(argument) for argument in arguments)
    with matplotlib.rc_context(STYLE):
        draw(summaries(run)).savefig(out, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
