"""The canvas of rendered images: size, palette, the vendored face, and the few strokes every drawing uses.

Everything is drawn at 320 × 240 with DejaVu Sans from `fonts/`, so nothing depends on the machine's fonts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

from PIL import ImageDraw, ImageFont

from safer_steer.seeds.sketches import Colour

WIDTH, HEIGHT = 320, 240
Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]

PALETTE: dict[Colour, Rgb] = {
    Colour.WHITE: (255, 255, 255),
    Colour.CREAM: (250, 244, 228),
    Colour.BLACK: (24, 24, 28),
    Colour.GREY: (150, 154, 160),
    Colour.RED: (200, 44, 44),
    Colour.ORANGE: (232, 132, 36),
    Colour.YELLOW: (246, 208, 64),
    Colour.GREEN: (54, 140, 80),
    Colour.BLUE: (58, 118, 196),
    Colour.NAVY: (28, 46, 92),
    Colour.PURPLE: (122, 76, 160),
}
INK, PAPER = PALETTE[Colour.BLACK], PALETTE[Colour.WHITE]
RULE, TINT = PALETTE[Colour.GREY], (228, 236, 248)
SERIES = [PALETTE[c] for c in (Colour.BLUE, Colour.ORANGE, Colour.GREEN, Colour.RED, Colour.PURPLE, Colour.YELLOW)]
Pen = ImageDraw.ImageDraw


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The vendored face at `size` pixels; it covers Latin, Greek capitals, arrows and common mathematical signs."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    data = files("safer_steer.seeds").joinpath("fonts", name).read_bytes()
    return ImageFont.truetype(BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)


def fitted(text: str, width: float, largest: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The largest face of at most `largest` px (at least 8) in which one line of `text` is no wider than `width`."""
    size = largest
    while size > 8 and font(size, bold).getlength(text) > width:
        size -= 1
    return font(size, bold)


def centred(pen: Pen, box: Box, text: str, largest: int, ink: Rgb = INK, bold: bool = False) -> None:
    """Write `text` in the middle of `box`, on several lines where it has `|`."""
    lines = text.split("|")
    left, top, right, bottom = box
    step = (bottom - top) / len(lines)
    face = min((fitted(line, right - left, min(largest, int(step)), bold) for line in lines), key=lambda f: f.size)
    pitch = min(step, face.size * 1.35)
    start = (top + bottom) / 2 - pitch * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        pen.text(((left + right) / 2, start + number * pitch), line, font=face, fill=ink, anchor="mm")


def title(pen: Pen, text: str) -> None:
    """A heading along the top edge."""
    centred(pen, (12, 4, WIDTH - 12, 32), text, 18, bold=True)


def arrow(pen: Pen, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A line with a head at `end`."""
    pen.line((*start, *end), fill=INK, width=2)
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    wings = [(end[0] - 9 * math.cos(angle + s), end[1] - 9 * math.sin(angle + s)) for s in (0.45, -0.45)]
    pen.polygon([end, *wings], fill=INK)


def node(pen: Pen, box: Box, text: str) -> None:
    """A rounded, labelled box."""
    pen.rounded_rectangle(box, radius=8, fill=TINT, outline=SERIES[0], width=2)
    centred(pen, (box[0] + 5, box[1] + 3, box[2] - 5, box[3] - 3), text, 15)


def ring(count: int) -> list[tuple[float, float]]:
    """`count` places on an ellipse below the title, clockwise from the top."""
    turns = [-math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(WIDTH / 2 + 104 * math.cos(a), 136 + 76 * math.sin(a)) for a in turns]
