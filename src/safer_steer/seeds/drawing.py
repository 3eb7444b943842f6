"""Drawing sketches with Pillow: same sketch, same Pillow, same pixels.

Everything is drawn at 320 × 240 with the vendored DejaVu Sans, so nothing depends on the machine's fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from safer_steer.seeds.sketches import (
    Chart,
    Chat,
    Colour,
    Flow,
    Frame,
    Geometry,
    Page,
    Sketch,
    Table,
    Tokens,
    Word,
)

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


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The vendored face at `size` pixels; it covers Latin, Greek capitals, arrows and common mathematical signs."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    data = files("safer_steer.seeds").joinpath("fonts", name).read_bytes()
    return ImageFont.truetype(BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)


def draw(sketch: Sketch) -> Image.Image:
    """The sketch as an RGB image of `WIDTH` × `HEIGHT`."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    _PAINTERS[sketch.kind](ImageDraw.Draw(image), sketch)
    return image


def png(sketch: Sketch) -> bytes:
    """The sketch as PNG bytes."""
    buffer = BytesIO()
    draw(sketch).quantize(64, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def fitted(text: str, width: float, largest: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The largest face of at most `largest` px (at least 8) in which one line of `text` is no wider than `width`."""
    size = largest
    while size > 8 and font(size, bold).getlength(text) > width:
        size -= 1
    return font(size, bold)


def _centred(pen: ImageDraw.ImageDraw, box: Box, text: str, largest: int, ink: Rgb = INK, bold: bool = False) -> None:
    """Write `text` in the middle of `box`, on several lines where it has `|`."""
    lines = text.split("|")
    left, top, right, bottom = box
    step = (bottom - top) / len(lines)
    face = min((fitted(line, right - left, min(largest, int(step)), bold) for line in lines), key=lambda f: f.size)
    pitch = min(step, face.size * 1.35)
    start = (top + bottom) / 2 - pitch * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        pen.text(((left + right) / 2, start + number * pitch), line, font=face, fill=ink, anchor="mm")


def _title(pen: ImageDraw.ImageDraw, text: str) -> None:
    _centred(pen, (12, 4, WIDTH - 12, 32), text, 18, bold=True)


def _word(pen: ImageDraw.ImageDraw, sketch: Word) -> None:
    paper, ink = PALETTE[sketch.paper], PALETTE[sketch.ink]
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=paper)
    if sketch.frame is Frame.BORDER:
        pen.rectangle((8, 8, WIDTH - 9, HEIGHT - 9), outline=ink, width=6)
    elif sketch.frame is Frame.SIGN:
        pen.rounded_rectangle((10, 34, WIDTH - 11, HEIGHT - 35), radius=22, outline=ink, width=8)
    elif sketch.frame is Frame.STAMP:
        pen.rectangle((18, 52, WIDTH - 19, HEIGHT - 53), outline=ink, width=4)
        pen.rectangle((26, 60, WIDTH - 27, HEIGHT - 61), outline=ink, width=2)
    _centred(pen, (34, 62, WIDTH - 34, HEIGHT - 62), sketch.text, 64, ink, bold=True)


def _bars(pen: ImageDraw.ImageDraw, sketch: Chart) -> None:
    _title(pen, sketch.title)
    left, base, top, highest = 30.0, 206.0, 52.0, max(sketch.values)
    slot = (WIDTH - 2 * left) / len(sketch.values)
    for number, (label, value) in enumerate(zip(sketch.labels, sketch.values, strict=True)):
        x = left + number * slot
        y = base - (base - top) * value / highest
        pen.rectangle((x + slot * 0.18, y, x + slot * 0.82, base), fill=SERIES[number % len(SERIES)])
        _centred(pen, (x, y - 18, x + slot, y - 2), f"{value:g}", 14)
        _centred(pen, (x + 2, base + 4, x + slot - 2, base + 26), label, 14)
    pen.line((left, base, WIDTH - left, base), fill=INK, width=2)


def _pie(pen: ImageDraw.ImageDraw, sketch: Chart) -> None:
    _title(pen, sketch.title)
    total, start = sum(sketch.values), -90.0
    for number, (label, value) in enumerate(zip(sketch.labels, sketch.values, strict=True)):
        colour, sweep = SERIES[number % len(SERIES)], 360 * value / total
        pen.pieslice((18, 44, 194, 220), start, start + sweep, fill=colour, outline=PAPER, width=2)
        start += sweep
        y = 62 + number * 32
        pen.rectangle((208, y, 224, y + 16), fill=colour)
        pen.text((230, y + 8), f"{label} {value:g}", font=fitted(f"{label} {value:g}", 86, 14), fill=INK, anchor="lm")


def _line(pen: ImageDraw.ImageDraw, sketch: Chart) -> None:
    _title(pen, sketch.title)
    left, base, top = 36.0, 200.0, 52.0
    pen.line((left, top, left, base, WIDTH - 20, base), fill=INK, width=2)
    step = (WIDTH - 72) / max(1, len(sketch.values) - 1)
    highest = max(sketch.values)
    points = [(left + 12 + i * step, base - (base - top) * v / highest) for i, v in enumerate(sketch.values)]
    pen.line(points, fill=SERIES[0], width=3)
    for (x, y), label, value in zip(points, sketch.labels, sketch.values, strict=True):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=SERIES[3])
        _centred(pen, (x - 22, y - 20, x + 22, y - 6), f"{value:g}", 13)
        _centred(pen, (x - step / 2 + 1, base + 6, x + step / 2 - 1, base + 26), label, 13)


def _table(pen: ImageDraw.ImageDraw, sketch: Table) -> None:
    _title(pen, sketch.title)
    left, top, width = 16.0, 40.0, WIDTH - 32
    high = min(34.0, (HEIGHT - top - 12) / len(sketch.rows))
    for r, row in enumerate(sketch.rows):
        wide = width / len(row)
        for c, cell in enumerate(row):
            box = (left + c * wide, top + r * high, left + (c + 1) * wide, top + (r + 1) * high)
            pen.rectangle(box, fill=TINT if r == 0 else PAPER, outline=RULE)
            _centred(pen, (box[0] + 4, box[1] + 2, box[2] - 4, box[3] - 2), cell, 15, bold=r == 0)


def _arrow(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    pen.line((*start, *end), fill=INK, width=2)
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    wings = [(end[0] - 9 * math.cos(angle + s), end[1] - 9 * math.sin(angle + s)) for s in (0.45, -0.45)]
    pen.polygon([end, *wings], fill=INK)


def _node(pen: ImageDraw.ImageDraw, box: Box, text: str) -> None:
    pen.rounded_rectangle(box, radius=8, fill=TINT, outline=SERIES[0], width=2)
    _centred(pen, (box[0] + 5, box[1] + 3, box[2] - 5, box[3] - 3), text, 15)


def _flow(pen: ImageDraw.ImageDraw, sketch: Flow) -> None:
    _title(pen, sketch.title)
    pitch = (HEIGHT - 44) / len(sketch.boxes)
    for number, text in enumerate(sketch.boxes):
        top = 38 + number * pitch
        _node(pen, (70, top, WIDTH - 70, top + pitch * 0.66), text)
        if number > 0:
            _arrow(pen, (WIDTH / 2, top - pitch * 0.33), (WIDTH / 2, top - 1))


def _ring(count: int) -> list[tuple[float, float]]:
    """`count` places on an ellipse below the title, clockwise from the top."""
    turns = [-math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(WIDTH / 2 + 104 * math.cos(a), 136 + 76 * math.sin(a)) for a in turns]


def _cycle(pen: ImageDraw.ImageDraw, sketch: Flow) -> None:
    _title(pen, sketch.title)
    places = _ring(len(sketch.boxes))
    for (x, y), (u, v) in zip(places, places[1:] + places[:1], strict=True):
        _arrow(pen, (x + 0.3 * (u - x), y + 0.3 * (v - y)), (x + 0.68 * (u - x), y + 0.68 * (v - y)))
    for (x, y), text in zip(places, sketch.boxes, strict=True):
        _node(pen, (x - 48, y - 17, x + 48, y + 17), text)


def _hub(pen: ImageDraw.ImageDraw, sketch: Flow) -> None:
    _title(pen, sketch.title)
    centre, *spokes = sketch.boxes
    places = _ring(len(spokes))
    for x, y in places:
        pen.line((WIDTH / 2, 136, x, y), fill=RULE, width=3)
    for (x, y), text in zip([(WIDTH / 2, 136.0), *places], [centre, *spokes], strict=True):
        _node(pen, (x - 44, y - 17, x + 44, y + 17), text)


def _page(pen: ImageDraw.ImageDraw, sketch: Page) -> None:
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=(214, 218, 224))
    pen.rectangle((22, 8, WIDTH - 23, HEIGHT - 9), fill=PAPER, outline=RULE)
    _centred(pen, (32, 14, WIDTH - 32, 44), sketch.heading, 20, bold=True)
    pen.line((34, 48, WIDTH - 34, 48), fill=RULE, width=1)
    pitch = min(27.0, 176 / len(sketch.lines))
    for number, line in enumerate(sketch.lines):
        face = fitted(line, WIDTH - 72, min(17, int(pitch) - 2))
        pen.text((36, 58 + number * pitch), line, font=face, fill=INK)


def _chat(pen: ImageDraw.ImageDraw, sketch: Chat) -> None:
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=(226, 232, 226))
    pen.rectangle((0, 0, WIDTH, 36), fill=PALETTE[Colour.GREEN])
    _centred(pen, (12, 4, WIDTH - 12, 32), sketch.heading, 17, PAPER, bold=True)
    pitch = min(48.0, 196 / len(sketch.messages))
    for number, message in enumerate(sketch.messages):
        face = fitted(message, 226, 15)
        wide, top = face.getlength(message) + 22, 44 + number * pitch
        left = 10.0 if number % 2 == 0 else WIDTH - 10 - wide
        pen.rounded_rectangle((left, top, left + wide, top + pitch - 10), radius=10, fill=PAPER)
        pen.text((left + 11, top + (pitch - 10) / 2), message, font=face, fill=INK, anchor="lm")


def _geometry(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    _title(pen, sketch.title)
    _FIGURES[sketch.kind](pen, sketch)


def _rectangle(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    width, height = sketch.numbers
    scale = min(200 / width, 130 / height)
    x, y = (WIDTH - width * scale) / 2, 50.0
    pen.rectangle((x, y, x + width * scale, y + height * scale), fill=TINT, outline=INK, width=3)
    _centred(pen, (x, y + height * scale + 4, x + width * scale, y + height * scale + 28), _measure(sketch, 0), 17)
    pen.text((x + width * scale + 8, y + height * scale / 2), _measure(sketch, 1), font=font(17), fill=INK, anchor="lm")


def _triangle(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    base, height = sketch.numbers
    scale = min(190 / base, 140 / height)
    x, y = 80.0, 196.0
    pen.polygon([(x, y), (x + base * scale, y), (x, y - height * scale)], fill=TINT, outline=INK, width=3)
    pen.rectangle((x, y - 14, x + 14, y), outline=INK, width=2)
    _centred(pen, (x, y + 6, x + base * scale, y + 30), _measure(sketch, 0), 17)
    pen.text((x - 8, y - height * scale / 2), _measure(sketch, 1), font=font(17), fill=INK, anchor="rm")


def _circle(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    pen.ellipse((78, 44, 242, 208), fill=TINT, outline=INK, width=3)
    pen.line((160, 126, 242, 126), fill=SERIES[3], width=3)
    pen.ellipse((156, 122, 164, 130), fill=INK)
    _centred(pen, (164, 100, 240, 124), _measure(sketch, 0), 17)


def _number_line(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    _arrow(pen, (16, 130), (WIDTH - 12, 130))
    step = (WIDTH - 70) / max(1, len(sketch.numbers) - 1)
    for number, value in enumerate(sketch.numbers):
        x = 30 + number * step
        pen.line((x, 120, x, 140), fill=INK, width=3)
        _centred(pen, (x - step / 2, 144, x + step / 2, 168), f"{value:g}", 18)


def _clock(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
    hour, minute = sketch.numbers
    pen.ellipse((74, 40, 246, 212), fill=PAPER, outline=INK, width=5)
    for mark in range(1, 13):
        angle = math.radians(30 * mark - 90)
        x, y = 160 + 68 * math.cos(angle), 126 + 68 * math.sin(angle)
        _centred(pen, (x - 12, y - 9, x + 12, y + 9), str(mark), 16)
    hands = ((30 * (hour % 12) + minute / 2, 38, 6), (6 * minute, 56, 4))
    for degrees, length, width in hands:
        angle = math.radians(degrees - 90)
        pen.line((160, 126, 160 + length * math.cos(angle), 126 + length * math.sin(angle)), fill=INK, width=width)


def _thermometer(pen: ImageDraw.ImageDraw, sketch: Geometry) -> None:
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


def _tokens(pen: ImageDraw.ImageDraw, sketch: Tokens) -> None:
    pitch = HEIGHT / len(sketch.rows)
    for number, row in enumerate(sketch.rows):
        count, colour, shape = row.split()
        y, size = pitch * (number + 0.5), min(20.0, pitch * 0.36)
        for place in range(int(count)):
            x = WIDTH / (int(count) + 1) * (place + 1)
            sides, turn = {"circle": (0, 0), "square": (4, 45), "triangle": (3, 90)}[shape]
            fill = PALETTE[Colour(colour)]
            if sides == 0:
                pen.ellipse((x - size, y - size, x + size, y + size), fill=fill)
            else:
                pen.regular_polygon((x, y, size * 1.2), sides, rotation=turn - 90 if sides == 3 else 0, fill=fill)


Painter = Callable[..., None]
_FIGURES: dict[str, Painter] = {
    "rectangle": _rectangle,
    "triangle": _triangle,
    "circle": _circle,
    "number_line": _number_line,
    "clock": _clock,
    "thermometer": _thermometer,
}
_PAINTERS: dict[str, Painter] = {
    "word": _word,
    "bars": _bars,
    "pie": _pie,
    "line": _line,
    "table": _table,
    "flow": _flow,
    "cycle": _cycle,
    "hub": _hub,
    "page": _page,
    "chat": _chat,
    "tokens": _tokens,
    **dict.fromkeys(_FIGURES, _geometry),
}
