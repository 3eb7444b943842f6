"""The statistics as one picture."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from safer_steer.exports.stats import PartStats, Stats
from safer_steer.store import write_atomic

COLOURS = {"sft": "#2a6f97", "rl": "#e07a3f", "val": "#9aa0a6", "bench": "#5a8f5a"}
KINDS = {"red_team": "#b23a48", "obfuscated": "#e3a857", "benign": "#4a8fa8"}
MOST = 20
"""Categories beyond so many are shown as one bar."""


def plot(stats: Stats, path: Path) -> None:
    """Draw sizes, turns, categories and success rates into a PNG; raises `StorageError`."""
    rows = max(len(_largest(stats)), 8)
    figure = Figure(figsize=(11, 4.2 + 0.26 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    (sizes, turns), (categories, success) = figure.subplots(2, 2, height_ratios=(3.6, 0.6 + 0.26 * rows))
    _sizes(sizes, stats)
    _turns(turns, stats)
    _categories(categories, stats)
    _success(success, stats)
    for axes in (sizes, turns, categories, success):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _sizes(axes: Axes, stats: Stats) -> None:
    names = list(stats.parts)
    left = [0] * len(names)
    for kind, colour in KINDS.items():
        counts = [stats.parts[name].kinds.get(kind, 0) for name in names]
        axes.barh(names, counts, left=left, color=colour, label=kind.replace("_", " "))
        left = [start + count for start, count in zip(left, counts, strict=True)]
    for number, (name, whole) in enumerate(zip(names, left, strict=True)):
        axes.text(whole, number, f" {whole:,}  mean {stats.parts[name].mean_turns:.2f} turns", va="center", fontsize=9)
    axes.set_xlim(0, max(left) * 1.75)
    axes.invert_yaxis()
    axes.set_title("Dialogues by split and kind", loc="left", fontsize=11)
    # Below the axes: beside the bars stand their labels.
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(KINDS))


def _turns(axes: Axes, stats: Stats) -> None:
    lengths = range(
        min(part.range[0] for part in stats.parts.values()), max(part.range[1] for part in stats.parts.values()) + 1
    )
    width = 0.8 / len(stats.parts)
    for number, (name, part) in enumerate(stats.parts.items()):
        places = [length - 0.4 + width * (number + 0.5) for length in lengths]
        shares = [part.turns.get(length, 0) / part.dialogues for length in lengths]
        axes.bar(places, shares, width, color=COLOURS[name], label=name)
    axes.set_xticks(list(lengths))
    axes.set_xlabel("turns")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_title("Turns, share of each split's dialogues", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8)


def _categories(axes: Axes, stats: Stats) -> None:
    names = _largest(stats)
    left = [0] * len(names)
    for split, part in stats.parts.items():
        counts = [_count(part, name, names) for name in names]
        axes.barh(names, counts, left=left, color=COLOURS[split], label=split)
        left = [start + count for start, count in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlim(0, max(left) * 1.2)
    axes.set_title("Dialogues by category", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _largest(stats: Stats) -> list[str]:
    """The largest categories, and `others` where there are more."""
    total: Counter[str] = Counter()
    for part in stats.parts.values():
        total.update(part.categories)
    names = [name for name, _ in sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))]
    return names if len(names) <= MOST else [*names[: MOST - 1], "others"]


def _count(part: PartStats, name: str, shown: list[str]) -> int:
    if name == "others" and name not in part.categories:
        return sum(number for category, number in part.categories.items() if category not in shown)
    return part.categories.get(name, 0)


def _success(axes: Axes, stats: Stats) -> None:
    axes.set_title("Attacks that succeeded against the target", loc="left", fontsize=11)
    entries = {name: s for name, s in [*stats.attacks.items(), ("all", stats.attacked)] if s.rate is not None}
    if not entries:
        axes.text(0.5, 0.5, "the success filter was off", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    rates = [0.0 if success.rate is None else success.rate for success in entries.values()]
    names = [name.replace("_", " ") for name in entries]
    axes.barh(names, rates, color=["#b23a48"] * (len(names) - 1) + ["#555555"])
    for number, success in enumerate(entries.values()):
        told = f" {rates[number]:.0%}  ({success.succeeded} of {success.decided})"
        axes.text(rates[number], number, told, va="center", fontsize=8)
    axes.set_xlim(0, max(1e-3, max(rates)) * 1.4)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
