"""Images for training and measuring the projector: captioned stamps, rendered shapes, rendered words.

The stamps are the Debian package ``tuxpaint-stamps-default`` (GPL-2). They are read where they are installed and
never copied. Shapes and words are drawn here, from a seed.
"""

import hashlib
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 512  # drawn at twice the tower's side, then reduced like any other picture
MAX_WORDS, MAX_LETTERS = 4, 12
COLOURS = {
    "red": (214, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 210), "yellow": (245, 215, 40),
    "orange": (245, 140, 30), "purple": (130, 50, 170), "pink": (245, 130, 180), "brown": (125, 75, 35),
    "black": (15, 15, 15), "white": (250, 250, 250), "gray": (130, 130, 130),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "diamond", "rectangle", "cross", "ring")
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneralBol", "cmr10", "cmb10",
)  # fmt: skip
HELD_OUT_FONTS = ("STIXGeneral", "DejaVuSerif-Italic", "cmss10")


@dataclass(frozen=True)
class Letter:
    """One drawn letter: which word, which place in it, and its box as fractions of the picture."""

    word: int
    place: int
    letter: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Sample:
    """A picture, how it may be described, and what is written on it."""

    image: Image.Image
    captions: tuple[str, ...]
    key: str
    words: tuple[str, ...] = ()
    letters: tuple[Letter, ...] = field(default=(), repr=False)


def bucket(text: str, count: int) -> int:
    """A stable pseudo-random bucket in ``range(count)``: the held-out splits hang on it."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % count


def caption_of(stamp: Path) -> str | None:
    """The English caption beside a stamp: the first sentence of its first line."""
    path = stamp.with_suffix(".txt")
    if not path.exists():
        return None
    line = path.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
    line = re.sub(r"\s*\([^)]*\)", "", line.replace("’", "'").replace("“", '"').replace("”", '"'))
    return re.split(r"(?<=[a-z][.!?])\s", line)[0][:120] or None


def open_stamp(path: Path) -> Image.Image | None:
    """A stamp with its alpha channel; None for an SVG that cannot be drawn: no renderer, or no size."""
    if path.suffix == ".png":
        return Image.open(path).convert("RGBA")
    try:
        import resvg_py
    except ImportError:
        return None
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=400))
    except ValueError:  # an SVG that the renderer cannot size
        return None
    return Image.open(io.BytesIO(png)).convert("RGBA")


def split_of(caption: str) -> str:
    """A fifth of the captions are for the test, a tenth for choosing, the rest for training."""
    place_in_ten = bucket(caption.lower(), 10)
    return "test" if place_in_ten in (0, 5) else "choose" if place_in_ten == 1 else "train"


def stamps(root: Path) -> list[tuple[Path, str, str]]:
    """(path, caption, split) of each captioned stamp; one file per stem, captions never cross the split."""
    found: dict[Path, tuple[Path, str, str]] = {}
    for path in sorted([*root.rglob("*.png"), *root.rglob("*.svg")]):
        caption = caption_of(path)
        if caption is not None and path.with_suffix("") not in found:
            found[path.with_suffix("")] = (path, caption, split_of(caption))
    return list(found.values())


def emoji(root: Path, style: str) -> list[tuple[Path, str]]:
    """(path, caption) of the named pictures of the npm package ``fluentui-emoji``, one skin tone, no clock faces."""
    found = []
    for path in sorted((root / "icons" / style).glob("*.svg")):
        name = path.stem.removesuffix("-default")
        if re.search(r"-(light|medium|dark)$|oclock|-thirty$", name):
            continue
        words = name.replace("-", " ")
        found.append((path, f"{'An' if words[0] in 'aeio' else 'A'} {words}."))
    return found


def place(stamp: Image.Image, rng: random.Random | None) -> Image.Image:
    """A stamp on a square: centred on white, or (with a generator) moved, scaled, flipped, on some colour."""
    side = max(stamp.size)
    if rng is None:
        canvas, scale, offset = (Image.new("RGBA", (side, side), "white"), 1.0, (0.5, 0.5))
    else:
        tone = tuple(rng.randrange(130, 256) for _ in range(3)) if rng.random() < 0.6 else (255, 255, 255)
        side = round(side * rng.uniform(0.85, 1.25))
        canvas, scale, offset = (
            Image.new("RGBA", (side, side), tone),
            rng.uniform(0.75, 1.0),
            (rng.random(), rng.random()),
        )
        stamp = stamp.rotate(rng.uniform(-12, 12), expand=True, resample=Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stamp = stamp.resize((max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))))
    corner = (round((side - stamp.width) * offset[0]), round((side - stamp.height) * offset[1]))
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    layer.paste(stamp, corner)
    return Image.alpha_composite(canvas, layer).convert("RGB")


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, colour: tuple[int, ...]) -> None:
    """One filled shape of radius r around (x, y)."""
    import math

    def corners(count: int, start: float, inner: float = 1.0) -> list[tuple[float, float]]:
        radii = [r if i % 2 == 0 else r * inner for i in range(count)]
        return [(x + radii[i] * math.sin(start + 2 * math.pi * i / count),
                 y - radii[i] * math.cos(start + 2 * math.pi * i / count)) for i in range(count)]  # fmt: skip

    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(3, round(r * 0.3)))
    elif shape == "square":
        draw.rectangle((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), fill=colour)
    elif shape == "rectangle":
        draw.rectangle((x - r, y - r * 0.5, x + r, y + r * 0.5), fill=colour)
    elif shape == "cross":
        draw.rectangle((x - r, y - r * 0.3, x + r, y + r * 0.3), fill=colour)
        draw.rectangle((x - r * 0.3, y - r, x + r * 0.3, y + r), fill=colour)
    else:
        points = {"triangle": corners(3, 0), "diamond": corners(4, 0), "star": corners(10, 0, 0.45)}[shape]
        draw.polygon(points, fill=colour)


def shapes(count: int, seed: int) -> Iterator[Sample]:
    """Pictures of one to four equal shapes."""
    rng = random.Random(seed)
    for index in range(count):
        name, shape, number = (rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice((1, 1, 2, 3, 4)))
        ground = rng.choice([c for c in ("white", "white", "gray", "black", "yellow", "blue") if c != name])
        image = Image.new("RGB", (SIDE, SIDE), COLOURS[ground])
        spots = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)] if number > 1 else [(0.5, 0.5)]
        radius = SIDE * (rng.uniform(0.13, 0.21) if number > 1 else rng.uniform(0.2, 0.42))
        for spot in rng.sample(spots, number):
            x, y = (SIDE * (v + rng.uniform(-0.03, 0.03)) for v in spot)
            draw_shape(ImageDraw.Draw(image), shape, x, y, radius, COLOURS[name])
        noun = shape if number == 1 else {"cross": "crosses"}.get(shape, shape + "s")
        article = "An" if name[0] in "aeo" else "A"
        text = f"{article} {name} {noun}." if number == 1 else f"{COUNTS[number].capitalize()} {name} {noun}."
        yield Sample(image, (text,), f"shape-{seed}-{index}")


def font_path(name: str) -> str:
    """A font file that ships inside matplotlib."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")


def lay_out(words: Sequence[str], rng: random.Random) -> list[list[int]]:
    """Word indices per line: one line, one word a line, or a break somewhere."""
    if len(words) == 1:
        return [[0]]
    breaks = [rng.random() < 0.6 or len(words[i]) + len(words[i + 1]) > 11 for i in range(len(words) - 1)]
    lines: list[list[int]] = [[0]]
    for index, broken in enumerate(breaks, start=1):
        if broken:
            lines.append([index])
        else:
            lines[-1].append(index)
    return lines


def written(words: Sequence[str], font_name: str, rng: random.Random, key: str, stamp: Image.Image | None) -> Sample:
    """Words drawn on a plain or tinted ground, over a picture if one is given."""
    words = [rng.choice((str.lower, str.upper, str.capitalize))(w) for w in words]
    lines = lay_out(words, rng)
    dark = rng.random() < 0.4
    tone = tuple(rng.randrange(0, 90) if dark else rng.randrange(170, 256) for _ in range(3))
    ink = tuple(rng.randrange(175, 256) if dark else rng.randrange(0, 80) for _ in range(3))
    image = Image.new("RGB", (SIDE, SIDE), tone)
    band = 0.55 if stamp is not None else 0.94
    probe = ImageFont.truetype(font_path(font_name), 100)
    widest = max(probe.getlength(" ".join(words[i] for i in line)) for line in lines)
    size = min(100 * SIDE * rng.uniform(0.55, 0.94) / widest, SIDE * band / (1.3 * len(lines)), 150)
    font = ImageFont.truetype(font_path(font_name), max(18, int(size)))
    pitch = font.size * rng.uniform(1.15, 1.3)
    height = pitch * len(lines)
    free = SIDE * (1 if stamp is None else band) - height
    y = max(0.0, free) * rng.random()
    if stamp is not None:
        small = stamp.resize((int(SIDE * 0.42), int(SIDE * 0.42)))
        image.paste(small, (rng.randrange(0, SIDE - small.width), int(SIDE * 0.57)))
    draw, letters = ImageDraw.Draw(image), []
    for line in lines:
        text = " ".join(words[i] for i in line)
        x = max(2.0, (SIDE - font.getlength(text)) * rng.random())
        draw.text((x, y), text, font=font, fill=ink)
        done = ""
        for index in line:
            for spot, letter in enumerate(words[index]):
                left, right = (x + font.getlength(done), x + font.getlength(done + letter))
                box = (left / SIDE, y / SIDE, right / SIDE, (y + font.size * 1.15) / SIDE)
                letters.append(Letter(index, spot, letter.lower(), box))
                done += letter
            done += " "
        y += pitch
    text = " ".join(words)
    return Sample(image, (f'The words "{text}".' if len(words) > 1 else f'The word "{text}".',), key,
                  tuple(w.lower() for w in words), tuple(letters))  # fmt: skip


def rendered_letters(count: int, fonts: Sequence[str], seed: int) -> Iterator[Sample]:
    """Pictures of one big letter."""
    rng = random.Random(seed)
    for index in range(count):
        letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
        glyph = rng.choice((str.lower, str.upper))(letter)
        image = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(190, 256) for _ in range(3)))
        font = ImageFont.truetype(font_path(rng.choice(list(fonts))), rng.randrange(180, 560))
        left, top, right, bottom = font.getbbox(glyph)
        x = (SIDE - (right - left)) * rng.uniform(0.3, 0.7)
        y = (SIDE - (bottom - top)) * rng.uniform(0.3, 0.7)
        ink = tuple(rng.randrange(0, 120) for _ in range(3))
        outlined = rng.random() < 0.3
        ImageDraw.Draw(image).text(
            (x - left, y - top), glyph, font=font, fill=(255, 255, 255) if outlined else ink,
            stroke_width=5 if outlined else 0, stroke_fill=ink,
        )  # fmt: skip
        box = (max(x, 0) / SIDE, max(y, 0) / SIDE, (x + right - left) / SIDE, (y + bottom - top) / SIDE)
        yield Sample(
            image, (f"The letter {glyph}.",), f"letter-{seed}-{index}", (letter,), (Letter(0, 0, letter, box),)
        )


def pick_words(vocabulary: Sequence[str], rng: random.Random, most: int) -> list[str]:
    """One to `most` words, common ones oftener; one in six is a random string, so that letters must be read."""
    count = rng.choices(range(1, most + 1), weights=[5, 3, 2, 2][:most])[0]
    chosen = []
    for _ in range(count):
        if rng.random() < 1 / 6:
            chosen.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8))))
        else:
            chosen.append(vocabulary[int(len(vocabulary) * rng.random() ** 1.7)])
    return chosen


def rendered_words(
    count: int,
    vocabulary: Sequence[str],
    fonts: Sequence[str],
    seed: int,
    pictures: Sequence[Image.Image] = (),
    most: int = MAX_WORDS,
) -> Iterator[Sample]:
    """Pictures of words; one in four over a picture when some are given."""
    rng = random.Random(seed)
    for index in range(count):
        stamp = rng.choice(pictures) if pictures and rng.random() < 0.25 else None
        yield written(pick_words(vocabulary, rng, most), rng.choice(list(fonts)), rng, f"words-{seed}-{index}", stamp)
