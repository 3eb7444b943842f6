"""Drawing sketches with Pillow: same sketch, same Pillow, same pixels."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageDraw

from safer_steer.seeds.canvas import (
    HEIGHT,
    INK,
    PALETTE,
    PAPER,
    RULE,
    TINT,
    WIDTH,
    Pen,
    arrow,
    centred,
    fitted,
    node,
    ring,
    title,
)
from safer_steer.seeds.figures import CHARTS, FIGURES
from safer_steer.seeds.sketches import Chat, Colour, Flow, Frame, Page, Sketch, Table, Tokens, Word


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


def _word(pen: Pen, sketch: Word) -> None:
    paper, ink = PALETTE[sketch.paper], PALETTE[sketch.ink]
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=paper)
    if sketch.frame is Frame.BORDER:
        pen.rectangle((8, 8, WIDTH - 9, HEIGHT - 9), outline=ink, width=6)
    elif sketch.frame is Frame.SIGN:
        pen.rounded_rectangle((10, 34, WIDTH - 11, HEIGHT - 35), radius=22, outline=ink, width=8)
    elif sketch.frame is Frame.STAMP:
        pen.rectangle((18, 52, WIDTH - 19, HEIGHT - 53), outline=ink, width=4)
        pen.rectangle((26, 60, WIDTH - 27, HEIGHT - 61), outline=ink, width=2)
    centred(pen, (34, 62, WIDTH - 34, HEIGHT - 62), sketch.text, 64, ink, bold=True)


def _table(pen: Pen, sketch: Table) -> None:
    title(pen, sketch.title)
    left, top, width = 16.0, 40.0, WIDTH - 32
    high = min(34.0, (HEIGHT - top - 12) / len(sketch.rows))
    for r, row in enumerate(sketch.rows):
        wide = width / len(row)
        for c, cell in enumerate(row):
            box = (left + c * wide, top + r * high, left + (c + 1) * wide, top + (r + 1) * high)
            pen.rectangle(box, fill=TINT if r == 0 else PAPER, outline=RULE)
            centred(pen, (box[0] + 4, box[1] + 2, box[2] - 4, box[3] - 2), cell, 15, bold=r == 0)


def _flow(pen: Pen, sketch: Flow) -> None:
    title(pen, sketch.title)
    pitch = (HEIGHT - 44) / len(sketch.boxes)
    for number, text in enumerate(sketch.boxes):
        top = 38 + number * pitch
        node(pen, (70, top, WIDTH - 70, top + pitch * 0.66), text)
        if number > 0:
            arrow(pen, (WIDTH / 2, top - pitch * 0.33), (WIDTH / 2, top - 1))


def _cycle(pen: Pen, sketch: Flow) -> None:
    title(pen, sketch.title)
    places = ring(len(sketch.boxes))
    for (x, y), (u, v) in zip(places, places[1:] + places[:1], strict=True):
        arrow(pen, (x + 0.3 * (u - x), y + 0.3 * (v - y)), (x + 0.68 * (u - x), y + 0.68 * (v - y)))
    for (x, y), text in zip(places, sketch.boxes, strict=True):
        node(pen, (x - 48, y - 17, x + 48, y + 17), text)


def _hub(pen: Pen, sketch: Flow) -> None:
    title(pen, sketch.title)
    centre, *spokes = sketch.boxes
    places = ring(len(spokes))
    for x, y in places:
        pen.line((WIDTH / 2, 136, x, y), fill=RULE, width=3)
    for (x, y), text in zip([(WIDTH / 2, 136.0), *places], [centre, *spokes], strict=True):
        node(pen, (x - 44, y - 17, x + 44, y + 17), text)


def _page(pen: Pen, sketch: Page) -> None:
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=(214, 218, 224))
    pen.rectangle((22, 8, WIDTH - 23, HEIGHT - 9), fill=PAPER, outline=RULE)
    centred(pen, (32, 14, WIDTH - 32, 44), sketch.heading, 20, bold=True)
    pen.line((34, 48, WIDTH - 34, 48), fill=RULE, width=1)
    pitch = min(32.0, 176 / len(sketch.lines))
    face = min((fitted(line, WIDTH - 72, min(19, int(pitch) - 2)) for line in sketch.lines), key=lambda f: f.size)
    for number, line in enumerate(sketch.lines):
        pen.text((36, 58 + number * pitch), line, font=face, fill=INK)


def _chat(pen: Pen, sketch: Chat) -> None:
    pen.rectangle((0, 0, WIDTH, HEIGHT), fill=(226, 232, 226))
    pen.rectangle((0, 0, WIDTH, 36), fill=PALETTE[Colour.GREEN])
    centred(pen, (12, 4, WIDTH - 12, 32), sketch.heading, 17, PAPER, bold=True)
    pitch = min(48.0, 196 / len(sketch.messages))
    for number, message in enumerate(sketch.messages):
        face = fitted(message, 226, 15)
        wide, top = face.getlength(message) + 22, 44 + number * pitch
        left = 10.0 if number % 2 == 0 else WIDTH - 10 - wide
        pen.rounded_rectangle((left, top, left + wide, top + pitch - 10), radius=10, fill=PAPER)
        pen.text((left + 11, top + (pitch - 10) / 2), message, font=face, fill=INK, anchor="lm")


def _tokens(pen: Pen, sketch: Tokens) -> None:
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


_PAINTERS: dict[str, Callable[..., None]] = {
    "word": _word,
    "table": _table,
    "flow": _flow,
    "cycle": _cycle,
    "hub": _hub,
    "page": _page,
    "chat": _chat,
    "tokens": _tokens,
    **CHARTS,
    **FIGURES,
}
