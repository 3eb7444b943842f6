"""Charts and labelled figures: the drawings that carry numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from safer_steer.seeds.canvas import (
    INK,
    PAPER,
    SERIES,
    TINT,
    WIDTH,
    Pen,
    arrow,
    centred,
    fitted,
    font,
    title,
)
from safer_steer.seeds.sketches import Chart, Geometry


def _bars(pen: Pen, sketch: Chart) -> None:
    title(pen, sketch.title)
    left, base, top, highest = 30.0, 206.0, 52.0, max(sketch.values)
    slot = (WIDTH - 2 * left) / len(sketch.values)
    for number, (label, value) in enumerate(zip(sketch.labels, sketch.values, strict=True)):
        x = left + number * slot
        y = base - (base - top) * value / highest
        pen.rectangle((x + slot * 0.18, y, x + slot * 0.82, base), fill=SERIES[number % len(SERIES)])
        centred(pen, (x, y - 18, x + slot, y - 2), f"{value:g}", 14)
        centred(pen, (x + 2, base + 4, x + slot - 2, base + 26), label, 14)
    pen.line((left, base, WIDTH - left, base), fill=INK, width=2)


def _pie(pen: Pen, sketch: Chart) -> None:
    title(pen, sketch.title)
    total, start = sum(sketch.values), -90.0
    for number, (label, value) in enumerate(zip(sketch.labels, sketch.values, strict=True)):
        colour, sweep = SERIES[number % len(SERIES)], 360 * value / total
        pen.pieslice((18, 44, 194, 220), start, start + sweep, fill=colour, outline=PAPER, width=2)
        start += sweep
        y = 62 + number * 32
        pen.rectangle((208, y, 224, y + 16), fill=colour)
        pen.text((230, y + 8), f"{label} {value:g}", font=fitted(f"{label} {value:g}", 86, 14), fill=INK, anchor="lm")


def _line(pen: Pen, sketch: Chart) -> None:
    title(pen, sketch.title)
    left, base, top = 36.0, 200.0, 52.0
    pen.line((left, top, left, base, WIDTH - 20, base), fill=INK, width=2)
    step = (WIDTH - 72) / max(1, len(sketch.values) - 1)
    highest = max(sketch.values)
    points = [(left + 12 + i * step, base - (base - top) * v / highest) for i, v in enumerate(sketch.values)]
    pen.line(points, fill=SERIES[0], width=3)
    for (x, y), label, value in zip(points, sketch.labels, sketch.values, strict=True):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=SERIES[3])
        centred(pen, (x - 22, y - 20, x + 22, y - 6), f"{value:g}", 13)
        centred(pen, (x - step / 2 + 1, base + 6, x + step / 2 - 1, base + 26), label, 13)


def _rectangle(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    width, height = sketch.numbers
    scale = min(200 / width, 130 / height)
    x, y = (WIDTH - width * scale) / 2, 50.0
    pen.rectangle((x, y, x + width * scale, y + height * scale), fill=TINT, outline=INK, width=3)
    centred(pen, (x, y + height * scale + 4, x + width * scale, y + height * scale + 28), _measure(sketch, 0), 17)
    pen.text((x + width * scale + 8, y + height * scale / 2), _measure(sketch, 1), font=font(17), fill=INK, anchor="lm")


def _triangle(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    base, height = sketch.numbers
    scale = min(190 / base, 140 / height)
    x, y = 80.0, 196.0
    pen.polygon([(x, y), (x + base * scale, y), (x, y - height * scale)], fill=TINT, outline=INK, width=3)
    pen.rectangle((x, y - 14, x + 14, y), outline=INK, width=2)
    centred(pen, (x, y + 6, x + base * scale, y + 30), _measure(sketch, 0), 17)
    pen.text((x - 8, y - height * scale / 2), _measure(sketch, 1), font=font(17), fill=INK, anchor="rm")


def _circle(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    pen.ellipse((78, 44, 242, 208), fill=TINT, outline=INK, width=3)
    pen.line((160, 126, 242, 126), fill=SERIES[3], width=3)
    pen.ellipse((156, 122, 164, 130), fill=INK)
    centred(pen, (164, 100, 240, 124), _measure(sketch, 0), 17)


def _number_line(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    arrow(pen, (16, 130), (WIDTH - 12, 130))
    step = (WIDTH - 70) / max(1, len(sketch.numbers) - 1)
    for number, value in enumerate(sketch.numbers):
        x = 30 + number * step
        pen.line((x, 120, x, 140), fill=INK, width=3)
        centred(pen, (x - step / 2, 144, x + step / 2, 168), f"{value:g}", 18)


def _clock(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    hour, minute = sketch.numbers
    pen.ellipse((74, 40, 246, 212), fill=PAPER, outline=INK, width=5)
    for mark in range(1, 13):
        angle = math.radians(30 * mark - 90)
        x, y = 160 + 68 * math.cos(angle), 126 + 68 * math.sin(angle)
        centred(pen, (x - 12, y - 9, x + 12, y + 9), str(mark), 16)
    hands = ((30 * (hour % 12) + minute / 2, 38, 6), (6 * minute, 56, 4))
    for degrees, length, width in hands:
        angle = math.radians(degrees - 90)
        pen.line((160, 126, 160 + length * math.cos(angle), 126 + length * math.sin(angle)), fill=INK, width=width)


def _thermometer(pen: Pen, sketch: Geometry) -> None:
    title(pen, sketch.title)
    (degrees,) = sketch.numbers
    pen.rounded_rectangle((146, 40, 174, 196), radius=14, fill=PAPER, outline=INK, width=3)
    pen.ellipse((138, 180, 182, 224), fill=SERIES[3], outline=INK, width=3)
    level = 190 - 140 * degrees / 50
    pen.rectangle((154, level, 166, 196), fill=SERIES[3])
    for mark in range(0, 51, 10):
        y = 190 - 140 * mark / 50
        pen.line((176, y, 190, y), fill=INK, width=2)
        pen.text((196, y), f"{mark}{sketch.unit}", font=font(14), fill=INK, anchor="lm")


def _measure(sketch: Geometry, index: int) -> str:
    return f"{sketch.numbers[index]:g} {sketch.unit}".strip()


FIGURES: dict[str, Callable[[Pen, Geometry], None]] = {
    "rectangle": _rectangle,
    "triangle": _triangle,
    "circle": _circle,
    "number_line": _number_line,
    "clock": _clock,
    "thermometer": _thermometer,
}
CHARTS: dict[str, Callable[[Pen, Chart], None]] = {"bars": _bars, "pie": _pie, "line": _line}
