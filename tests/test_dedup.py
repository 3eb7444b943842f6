"""Near-duplicates: the fast search gives exactly what comparing every pair would give."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from people import script
from safer_steer.construct import shingles
from safer_steer.construct.dedup import Item, Looks, Repeat, contamination, item_of, repeats
from safer_steer.construct.looks import alike, distance, perceptual_hash
from safer_steer.construct.perturb import add_noise
from safer_steer.construct.shingles import Shingler, jaccard, near_duplicate_sets, near_duplicates
from safer_steer.dialogue import ImageRef, Script, Split
from safer_steer.image_store import ImageStore

texts = st.lists(st.lists(st.sampled_from("abcde"), max_size=14).map(" ".join), max_size=25)
thresholds = st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])


def brute_force(items: list[str], threshold: float) -> list[tuple[int, int]]:
    shingler, kept, found = Shingler(), [], []
    sets = [shingler(item) for item in items]
    for item, own in enumerate(sets):
        match = next((other for other in kept if jaccard(own, sets[other]) >= threshold), None)
        if match is None:
            kept.append(item)
        else:
            found.append((item, match))
    return found


@settings(max_examples=300, deadline=None)
@given(texts, thresholds)
def test_finds_what_comparing_every_pair_finds(items: list[str], threshold: float) -> None:
    assert [(d.item, d.of) for d in near_duplicates(items, threshold)] == brute_force(items, threshold)


@settings(max_examples=200, deadline=None)
@given(texts, thresholds, st.integers(1, 3))
def test_between_groups_everything_that_repeats_an_earlier_group_is_found(
    items: list[str], threshold: float, groups: int
) -> None:
    shingler = Shingler()
    sets = [shingler(item) for item in items]
    group = sorted(i % groups for i in range(len(items)))
    found = near_duplicate_sets(sets, threshold, group)
    expected = [
        i
        for i in range(len(items))
        if any(group[j] < group[i] and jaccard(sets[i], sets[j]) >= threshold for j in range(i))
    ]
    assert [duplicate.item for duplicate in found] == expected
    assert all(jaccard(sets[d.item], sets[d.of]) == d.jaccard >= threshold for d in found)
    assert all(group[d.of] < group[d.item] for d in found)


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lot = random.Random(0)
    items = [" ".join(lot.choices("abc", k=lot.randint(3, 9))) for _ in range(300)]
    whole = list(near_duplicates(items, 0.5))
    shingler = Shingler()
    sets, groups = [shingler(item) for item in items], [i // 100 for i in range(300)]
    crossing = near_duplicate_sets(sets, 0.5, groups)
    for budget in (0, 7, 1000):
        monkeypatch.setattr(shingles, "_BUDGET", budget)
        assert list(near_duplicates(items, 0.5)) == whole
        assert near_duplicate_sets(sets, 0.5, groups) == crossing
    assert [(d.item, d.of) for d in whole] == brute_force(items, 0.5)


def test_jaccard_by_hand() -> None:
    shingler = Shingler()
    a, b = shingler("one two three four five"), shingler("One, two three FOUR six!")
    assert len(a) == 3 and len(b) == 3
    assert jaccard(a, b) == 2 / 4
    assert jaccard(a, a) == 1.0
    assert shingler("").tolist() == shingler("...").tolist() != shingler("one").tolist()


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_refuses_a_threshold_that_means_nothing(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        list(near_duplicates(["a"], threshold))


def told(id: str, split: Split, text: str, seed: str = "") -> Script:
    return script(text, id=id).model_copy(update={"split": split, "seed_id": seed or f"seed-{id}"})


LONG = "what should a person think of before they open the lock that is shown in the picture here"


def items(*scripts: Script) -> list[Item]:
    shingler = Shingler()
    return [item_of(one, shingler) for one in scripts]


def kept_and_gone(scripts: list[Script], threshold: float = 0.8) -> tuple[list[str], list[tuple[str, str, bool]]]:
    found = repeats(items(*scripts), threshold)
    gone = {repeat.item.id for repeat in found}
    told_ = [(repeat.item.id, repeat.of.id, repeat.crosses_splits) for repeat in found]
    return sorted(one.id for one in scripts if one.id not in gone), told_


def test_test_keeps_its_scripts_and_train_loses_them() -> None:
    scripts = [told("a", Split.TRAIN, LONG), told("b", Split.VAL, LONG), told("c", Split.TEST, LONG + " today")]
    assert kept_and_gone(scripts) == (["c"], [("a", "c", True), ("b", "c", True)])


def test_within_a_split_the_first_id_stays() -> None:
    kept, gone = kept_and_gone([told("b", Split.TRAIN, LONG), told("a", Split.TRAIN, LONG)])
    assert kept == ["a"] and gone == [("b", "a", False)]


@settings(max_examples=60, deadline=None)
@given(texts, thresholds, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_nothing_crosses(words: list[str], threshold: float, lot: random.Random) -> None:
    scripts = [told(f"{i:02}", list(Split)[i % 3], text or "-") for i, text in enumerate(words)]
    kept, gone = kept_and_gone(scripts, threshold)
    assert kept_and_gone(lot.sample(scripts, len(scripts)), threshold) == (kept, gone)
    assert len(kept) + len(gone) == len(scripts)
    assert not contamination(items(*(one for one in scripts if one.id in kept)), threshold)


def test_contamination_names_what_crosses() -> None:
    scripts = [
        told("a", Split.TRAIN, LONG),
        told("b", Split.TEST, LONG),
        told("c", Split.TRAIN, "how tall is the tower in this photograph", "seed-x"),
        told("d", Split.TEST, "where was that old postcard printed", "seed-x"),
    ]
    found = contamination(items(*scripts), 0.8)
    assert found.seeds == ("seed-x",) and found.dialogues == {"test": 2, "train": 2}
    assert [(o.id, o.split, o.of, o.of_split, o.jaccard) for o in found.overlaps] == [("a", "train", "b", "test", 1.0)]


def test_contamination_names_what_repeats_a_repeat() -> None:
    """A training dialogue like a test dialogue, which is itself a repeat of another one."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    chain = [" ".join(words[start : start + 8]) for start in range(3)]
    ids = [("a", Split.TEST), ("b", Split.TEST), ("c", Split.TRAIN)]
    found = contamination(items(*(told(id, split, text) for (id, split), text in zip(ids, chain, strict=True))), 0.7)
    assert [(o.id, o.of) for o in found.overlaps] == [("c", "b")]


def picture(seed: int, side: int = 96) -> Image.Image:
    lot = np.random.default_rng(seed)
    return Image.fromarray(lot.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def stored(store: ImageStore, image: Image.Image, **how: object) -> ImageRef:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **how})
    return store.put(buffer.getvalue())


def test_a_picture_is_known_again_after_scaling_compression_noise_and_a_mark() -> None:
    whole = picture(3)
    own = perceptual_hash(whole)
    assert own is not None
    buffer = io.BytesIO()
    whole.save(buffer, format="JPEG", quality=70)
    lot = np.random.default_rng(0)
    for other in (whole.resize((300, 260)), Image.open(buffer), add_noise(whole, 0.03, lot), whole.convert("L")):
        assert distance(own, perceptual_hash(other)) <= 4
    others = [perceptual_hash(picture(seed)) for seed in range(4, 60)]
    assert min(distance(own, other) for other in others) > 8


def test_a_train_script_that_shows_a_picture_of_test_goes(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    one, scaled, other = (stored(store, image) for image in (picture(1), picture(1).resize((200, 200)), picture(2)))
    flat, flat_too = stored(store, Image.new("RGB", (9, 9), "red")), stored(store, Image.new("RGB", (8, 8), "blue"))
    shown = {"a": (Split.TRAIN, scaled), "b": (Split.TEST, one), "c": (Split.TRAIN, other), "d": (Split.TRAIN, other)}
    shown |= {"e": (Split.TRAIN, flat), "f": (Split.TEST, flat_too)}
    scripts = [
        told(id, split, f"{id} {LONG[n:]} {n}").model_copy(update={"images": (ref,)})
        for n, (id, (split, ref)) in enumerate(shown.items())
    ]
    looks = Looks(store, 4)
    for _, ref in shown.values():
        looks.see(ref)
    found = repeats(items(*scripts), 1.0, looks)
    assert [(repeat.item.id, repeat.of.id) for repeat in found] == [("a", "b")]
    assert found[0].bits is not None and found[0].bits <= 4 and "of 64 bits" in str(found[0])
    same = [scripts[0].model_copy(update={"images": (one,)}), scripts[1]]
    assert [(r.item.id, r.bits) for r in repeats(items(*same), 1.0, Looks(store, 4))] == [("a", 0)], "the same bytes"


def test_a_picture_that_repeats_a_repeat_is_told_but_stays(tmp_path: Path) -> None:
    """As with words: what goes removes nothing else, but a report of what crosses splits names everything."""
    store = ImageStore(tmp_path)
    one, other = stored(store, picture(1)), stored(store, picture(2))
    shown = {"a": (Split.TEST, (one,)), "b": (Split.VAL, (one, other)), "c": (Split.TRAIN, (other,))}
    scripts = [
        told(id, split, f"{id} {LONG[n:]} {n}").model_copy(update={"images": refs})
        for n, (id, (split, refs)) in enumerate(shown.items())
    ]
    looks = Looks(store, 4)
    assert [(repeat.item.id, repeat.of.id) for repeat in repeats(items(*scripts), 1.0, looks)] == [("b", "a")]
    assert [(o.id, o.of) for o in contamination(items(*scripts), 1.0, looks).overlaps] == [("b", "a"), ("c", "b")]


hashes = st.lists(st.integers(0, 2**64 - 1), max_size=12)


@settings(max_examples=100, deadline=None)
@given(hashes, hashes, st.integers(0, 16), st.lists(st.integers(0, 63), max_size=16))
def test_alike_finds_what_comparing_every_pair_finds(a: list[int], b: list[int], most: int, flips: list[int]) -> None:
    near = [*b, *(one ^ sum(1 << bit for bit in set(flips)) for one in a)]
    expected = [(i, j) for i, one in enumerate(a) for j, two in enumerate(near) if distance(one, two) <= most]
    assert alike(a, near, most) == expected


def test_a_repeat_says_how(tmp_path: Path) -> None:
    a, b = items(told("a", Split.TRAIN, LONG), told("b", Split.TEST, LONG))
    assert str(Repeat(a, b, jaccard=1.0)) == "Jaccard 1.000 with b (test)"


def test_a_large_cluster_leaves_with_its_first_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand variants of one text, in blocks of a few dozen: compared with the first, not with each other."""
    lot = random.Random(0)
    base = [f"w{i}" for i in range(60)]
    items = [" ".join([*base[:place], f"x{n}", *base[place:]]) for n in range(2000) for place in [lot.randrange(60)]]
    compared = 0

    def counted(a: np.ndarray, b: np.ndarray) -> float:
        nonlocal compared
        compared += 1
        return jaccard(a, b)

    monkeypatch.setattr(shingles, "jaccard", counted)
    monkeypatch.setattr(shingles, "_BUDGET", 20_000)
    looked, near = 0, shingles._Search._near

    def counting(self: shingles._Search, rights: object, right: np.ndarray, *more: object) -> list[tuple[int, int]]:
        nonlocal looked
        looked += right.size
        return near(self, rights, right, *more)

    monkeypatch.setattr(shingles._Search, "_near", counting)
    found = near_duplicates(items, 0.8)
    assert [(d.item, d.of) for d in found] == [(n, 0) for n in range(1, 2000)]
    assert compared == 1999 and looked < 60_000  # each block with itself alone: some 700,000


@pytest.mark.slow
def test_fifteen_thousand_dialogues_in_five_seconds() -> None:
    lot = random.Random(0)
    words = [f"w{i}" for i in range(4000)]
    frames = [" ".join(lot.choices(words, k=25)) for _ in range(60)]
    items = [
        " ".join(f"{lot.choice(frames)} {' '.join(lot.choices(words, k=6))}" for _ in range(6)) for _ in range(14_000)
    ]
    items += [item + " once more" for item in items[:1000]]
    began = time.perf_counter()
    found = list(near_duplicates(items, 0.8))
    assert time.perf_counter() - began < 5
    assert {d.item for d in found} >= set(range(14_000, 15_000))
