"""Visual perturbation: the right amount of noise, triggers that can be read, and nothing left to chance."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from safer_steer.construct.perturb import (
    COLOURS,
    Perturbation,
    add_noise,
    add_trigger,
    perturb_ref,
    perturbed,
    triggers,
)
from safer_steer.image_store import ImageStore

GREY = Image.new("RGB", (160, 120), (128, 128, 128))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64) / 255


def test_noise_has_the_stated_sigma() -> None:
    difference = pixels(add_noise(GREY, 0.03, np.random.default_rng(0))) - pixels(GREY)
    assert difference.std() == pytest.approx(0.03, abs=0.0005)
    assert abs(difference.mean()) < 0.0005


def test_no_sigma_no_change() -> None:
    assert add_noise(GREY, 0.0, np.random.default_rng(0)).tobytes() == GREY.tobytes()


def test_noise_stays_in_range() -> None:
    noisy = pixels(add_noise(Image.new("RGB", (50, 50), "white"), 0.5, np.random.default_rng(0)))
    assert noisy.min() >= 0 and noisy.max() == 1


@pytest.mark.parametrize("lot", range(12))
def test_a_trigger_lies_inside_and_in_its_colour(lot: int) -> None:
    marked = add_trigger(GREY, np.random.default_rng(lot))
    changed = np.argwhere((np.asarray(marked) != np.asarray(GREY)).any(axis=2))
    height, width = changed.max(axis=0) - changed.min(axis=0) + 1
    assert 5 <= height <= 24 and 30 <= width <= 130
    assert any((np.asarray(marked) == np.array(colour)).all(axis=2).sum() > 30 for colour in COLOURS.values())


def test_triggers_are_short_and_many() -> None:
    assert len(triggers()) == len(set(triggers())) >= 10
    assert all(3 <= len(text) <= 24 and text == text.upper() for text in triggers())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(8, 8), (33, 7), (120, 90)]), st.sampled_from(["RGB", "L", "RGBA"]))
def test_the_seed_decides_all(seed: int, size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size)
    first, how = perturbed(image, sigma=0.03, seed=seed)
    second, again = perturbed(image, sigma=0.03, seed=seed)
    assert (first.tobytes(), how) == (second.tobytes(), again)
    assert first.size == size and first.mode == "RGB"


def test_both_kinds_occur_and_places_differ() -> None:
    results = [perturbed(GREY, sigma=0.03, seed=seed) for seed in range(40)]
    assert {how for _, how in results} == set(Perturbation)
    assert len({image.tobytes() for image, _ in results}) == 40


def test_a_stored_image_becomes_another_stored_image(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    buffer = io.BytesIO()
    GREY.save(buffer, format="PNG")
    ref = store.put(buffer.getvalue(), name="grey")
    new = perturb_ref(store, ref, sigma=0.03, seed=1)
    assert new.sha256 != ref.sha256 and (new.width, new.height) == (160, 120)
    assert new.name in ("grey+noise", "grey+trigger")
    assert store.open(new).tobytes() == perturbed(GREY, sigma=0.03, seed=1)[0].tobytes()
    assert store.open(ref).tobytes() == GREY.tobytes()
    assert perturb_ref(store, ref, sigma=0.03, seed=1) == new
