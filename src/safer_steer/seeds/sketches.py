"""What a rendered image says: one frozen record per kind of drawing, read from `data/rendered.yaml`.

`drawing.draw` turns a sketch into pixels. A sketch holds words and numbers only, no coordinates, so that what an
image shows can be read, and checked, in the data file.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from safer_steer.dialogue import Record

Labels = Annotated[tuple[str, ...], Field(min_length=1)]
Values = Annotated[tuple[float, ...], Field(min_length=1)]


class Colour(StrEnum):
    """The palette's names; `drawing.PALETTE` has their RGB values."""

    WHITE = "white"
    CREAM = "cream"
    BLACK = "black"
    GREY = "grey"
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    NAVY = "navy"
    PURPLE = "purple"


class Frame(StrEnum):
    """What stands around a word."""

    PLAIN = "plain"
    BORDER = "border"
    SIGN = "sign"
    STAMP = "stamp"


class Word(Record):
    """Typography: a few words in large letters; `|` in `text` breaks the line."""

    kind: Literal["word"]
    text: str
    paper: Colour = Colour.CREAM
    ink: Colour = Colour.NAVY
    frame: Frame = Frame.PLAIN


class Chart(Record):
    """A bar, pie or line chart of one series."""

    kind: Literal["bars", "pie", "line"]
    title: str
    labels: Labels
    values: Values


class Table(Record):
    """A ruled table; the first row is its head."""

    kind: Literal["table"]
    title: str
    rows: Annotated[tuple[tuple[str, ...], ...], Field(min_length=2)]


class Flow(Record):
    """Labelled boxes joined by arrows: a column (`flow`), a ring (`cycle`) or spokes around the first (`hub`)."""

    kind: Literal["flow", "cycle", "hub"]
    title: str
    boxes: Labels


class Page(Record):
    """A printed page, sign-board, receipt or letter: a heading over lines of text; an empty line is a gap."""

    kind: Literal["page"]
    heading: str
    lines: Labels


class Chat(Record):
    """A messenger screen; messages stand left and right by turns."""

    kind: Literal["chat"]
    heading: str
    messages: Labels


class Geometry(Record):
    """A labelled figure. `rectangle`: width, height. `triangle` (right-angled): base, height. `circle`: radius.
    `number_line`: the marks. `clock`: hour, minute. `thermometer`: degrees."""

    kind: Literal["rectangle", "triangle", "circle", "number_line", "clock", "thermometer"]
    title: str
    numbers: Values
    unit: str = ""


class Tokens(Record):
    """Rows of coloured shapes to count: each row is `count colour shape`, e.g. `3 red circle`."""

    kind: Literal["tokens"]
    rows: Labels


Sketch = Annotated[
    Word | Chart | Table | Flow | Page | Chat | Geometry | Tokens,
    Field(discriminator="kind"),
]

_LOOKS = {
    "bars": "coloured bars with their numbers",
    "pie": "a disc with coloured parts",
    "line": "a line with marked points",
    "table": "a ruled table with a shaded head",
    "flow": "labelled boxes in a column",
    "cycle": "labelled boxes joined by arrows in a ring",
    "hub": "labelled boxes joined to the one in the middle",
    "page": "black print on white paper",
    "chat": "white message bubbles",
    "tokens": "rows of coloured shapes",
}


def look(sketch: Sketch) -> str:
    """What a sketch looks like, as one more fact about its image.

    >>> look(Word(kind="word", text="STOP", paper=Colour.RED, ink=Colour.WHITE))
    'white letters on a red ground'
    """
    if isinstance(sketch, Word):
        return f"{sketch.ink} letters on {_article(sketch.paper)} {sketch.paper} ground"
    return _LOOKS.get(sketch.kind, "a labelled drawing in black lines")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
