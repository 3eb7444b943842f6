"""Charts as inline SVG: drawn by matplotlib, then made to obey the page's policy and its theme.

The page's content security policy forbids style attributes and foreign style sheets, so `inline_svg` turns every
style into presentation attributes. Colours are placeholders that become CSS variables: one drawing, both themes.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safer_steer.bench.survival import SurvivalPoint

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
INK, FAINT = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
VARIABLES = {INK: "var(--ink)", FAINT: "var(--rule)"} | {c: f"var(--m{i})" for i, c in enumerate(SERIES)}
DASHES: tuple[Any, ...] = ((0, (1, 1.6)), (0, (5, 2)), "solid", (0, (4, 1.5, 1, 1.5)), (0, (3, 1)), (0, (1, 1)))
MARKS = ("s", "^", "o", "D", "v", "P")
STRONGEST = 2

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "safer-steer",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def series_of(index: int, count: int) -> int:
    """Which of the six series styles a model has: the last one of a chain is always the strongest.

    >>> [series_of(i, 3) for i in range(3)], [series_of(i, 2) for i in range(2)], series_of(0, 1)
    ([0, 1, 2], [0, 2], 2)
    >>> [series_of(i, 7) for i in range(7)]
    [0, 1, 3, 4, 5, 0, 2]
    """
    others = [style for style in range(len(SERIES)) if style != STRONGEST]
    return STRONGEST if index == count - 1 else others[index % len(others)]


def survival_chart(curves: Mapping[str, Sequence[SurvivalPoint]], title: str) -> Markup:
    """Kaplan–Meier curves with their 95 % bands, one per model (its label is the key), in the chain's order."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.8, 3.3))
        axes = figure.subplots()
        draw_survival(axes, curves, SERIES)
        axes.legend(frameon=False, loc="lower left", fontsize=9, handlelength=2.6)
        return inline_svg(figure, title)


def hazard_chart(curves: Mapping[str, Sequence[SurvivalPoint]], title: str) -> Markup:
    """The hazard of each turn with its 95 % interval, the models side by side at every turn."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.8, 3.3))
        axes = figure.subplots()
        top = 0.05
        for index, (label, points) in enumerate(curves.items()):
            style, shift = series_of(index, len(curves)), 0.14 * (index - (len(curves) - 1) / 2)
            known = [(p.turn, p.hazard, p.hazard_low, p.hazard_high) for p in points if p.hazard is not None]
            turns, values = [turn + shift for turn, *_ in known], [value for _, value, *_ in known]
            below = [value - low for _, value, low, _ in known if low is not None]
            above = [high - value for _, value, _, high in known if high is not None]
            axes.errorbar(
                turns, values, yerr=[below, above], color=SERIES[style], fmt=MARKS[style], markersize=4.5,
                linewidth=1.3, label=label,
            )  # fmt: skip
            top = max([top, *(1.6 * value for value in values)])
        last = max((point.turn for points in curves.values() for point in points), default=10)
        axes.set(xlabel="turn", ylabel="share of those still safe that fail", xlim=(0.4, last + 0.6))
        axes.set_ylim(0, min(1.03, top))
        axes.set_xticks(range(1, last + 1))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.legend(frameon=False, loc="upper right", fontsize=9, handlelength=1.2)
        return inline_svg(figure, title)


def draw_survival(axes: Axes, curves: Mapping[str, Sequence[SurvivalPoint]], colours: Sequence[str]) -> None:
    """The curves on any axes; `S` starts at 1 before the first turn."""
    budget = max((point.turn for points in curves.values() for point in points), default=10)
    for index, (label, points) in enumerate(curves.items()):
        if not points:
            continue
        style = series_of(index, len(curves))
        ends = (*points, points[-1])
        turns = [0, *(point.turn for point in points), budget + 0.4]
        values = [1.0, *(point.survival for point in ends)]
        lows = [1.0, *(p.low if p.low is not None else p.survival for p in ends)]
        highs = [1.0, *(p.high if p.high is not None else p.survival for p in ends)]
        axes.fill_between(turns, lows, highs, step="post", color=colours[style], alpha=0.13, linewidth=0)
        axes.step(
            turns, values, where="post", color=colours[style], linestyle=DASHES[style], linewidth=2, label=label,
            marker=MARKS[style], markersize=3.5, markevery=slice(0, len(turns) - 1),
        )  # fmt: skip
    axes.set(xlabel="turn", ylabel="share with no failure yet", xlim=(0, budget + 0.4), ylim=(0, 1.03))
    axes.set_xticks(range(0, budget + 1, 2))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])


def training_chart(steps: Sequence[float], lines: Mapping[str, Sequence[float | None]], title: str) -> Markup:
    """Several quantities by GRPO step, each in its own small panel (they have different units)."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.8, 2.5))
        panels = figure.subplots(1, len(lines), squeeze=False)[0]
        for axes, (label, values) in zip(panels, lines.items(), strict=True):
            known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
            xs, ys = [step for step, _ in known], [value for _, value in known]
            axes.plot(xs, ys, ".", color=SERIES[2], alpha=0.35, markersize=5)
            axes.plot(xs, moving_mean(ys), color=SERIES[2], linewidth=2)
            axes.set_title(label, fontsize=10, loc="left")
            axes.set_xlabel("step")
            axes.margins(y=0.15)
        figure.tight_layout(w_pad=2.5)
        return inline_svg(figure, title)


def moving_mean(values: Sequence[float], width: int = 5) -> list[float]:
    """The mean of each value and up to `width − 1` before it.

    >>> moving_mean([1.0, 2.0, 6.0], width=2)
    [1.0, 1.5, 4.0]
    """
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def inline_svg(figure: Figure, title: str) -> Markup:
    """The figure as an `<svg>` element without styles, ids that could clash, or anything not asked for."""
    buffer = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata=nothing)
    root = ET.fromstring(buffer.getvalue())
    _plain_tags(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    prefix = "c" + re.sub(r"\W+", "-", title.lower()) + "-"
    for element in root.iter():
        _present(element, prefix)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return Markup(ET.tostring(root, encoding="unicode"))


def _plain_tags(root: ET.Element) -> None:
    for element in root.iter():
        element.tag = element.tag.replace(f"{{{SVG}}}", "")
        if f"{{{XLINK}}}href" in element.attrib:
            element.set("href", element.attrib.pop(f"{{{XLINK}}}href"))


def _present(element: ET.Element, prefix: str) -> None:
    """Style to attributes, placeholder colours to variables, ids made the figure's own."""
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size.group(1) if size else "10")
        elif name:
            element.set(name, value)
    for name, value in list(element.attrib.items()):
        fresh = VARIABLES.get(value.lower(), value)
        if name == "id":
            fresh = prefix + value
        elif value.startswith("#") and name == "href":
            fresh = "#" + prefix + value[1:]
        elif "url(#" in value:
            fresh = value.replace("url(#", f"url(#{prefix}")
        element.set(name, fresh)
