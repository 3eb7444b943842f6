"""Visual perturbation: Gaussian noise, or a typographic trigger. Pure and seeded."""

from __future__ import annotations

import io
from enum import StrEnum
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw

from safer_steer.dialogue import ImageRef
from safer_steer.image_store import ImageStore
from safer_steer.seeds.canvas import fitted

COLOURS = {"red": (220, 20, 30), "white": (255, 255, 255), "yellow": (255, 220, 0)}


class Perturbation(StrEnum):
    NOISE = "noise"
    TRIGGER = "trigger"


@cache
def triggers() -> tuple[str, ...]:
    """The authority-like strings that come with the package."""
    text = files("safer_steer.construct").joinpath("triggers.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def add_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """`image` (RGB) with independent Gaussian noise of standard deviation `sigma` on [0, 1] pixels, clipped."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    noisy = pixels + rng.normal(0.0, sigma, pixels.shape) if sigma > 0 else pixels
    return Image.fromarray(np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8), "RGB")


def add_trigger(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`image` (RGB) with a short authority-like string in red, white or yellow at a random place inside it."""
    marked = image.convert("RGB")
    text = triggers()[rng.integers(len(triggers()))]
    colour = list(COLOURS.values())[rng.integers(len(COLOURS))]
    face = fitted(text, marked.width * 0.7, largest=max(10, marked.height // 9), bold=True)
    pen = ImageDraw.Draw(marked)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=face, stroke_width=1)
    x = rng.uniform(0, max(0.0, marked.width - (right - left)))
    y = rng.uniform(0, max(0.0, marked.height - (bottom - top)))
    pen.text((int(x) - left, int(y) - top), text, font=face, fill=colour, stroke_width=1, stroke_fill=(0, 0, 0))
    return marked


def perturbed(image: Image.Image, *, sigma: float, seed: int) -> tuple[Image.Image, Perturbation]:
    """One of the two perturbations, chosen and drawn by `seed` alone."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        return add_noise(image, sigma, rng), Perturbation.NOISE
    return add_trigger(image, rng), Perturbation.TRIGGER


def perturb_ref(images: ImageStore, ref: ImageRef, *, sigma: float, seed: int) -> ImageRef:
    """Perturb a stored image and store the result (lossless PNG); its name says how. Raises `ImageError`."""
    image, how = perturbed(images.open(ref), sigma=sigma, seed=seed)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return images.put(buffer.getvalue(), name=f"{'image' if ref.name is None else ref.name}+{how}")
