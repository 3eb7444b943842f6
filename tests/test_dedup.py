"""Near-duplicates: the fast search gives exactly what comparing every pair would give."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from people import script
from safer_steer.construct import shingles
from safer_steer.construct.dedup import contamination, deduplicate
from safer_steer.construct.shingles import Shingler, jaccard, near_duplicates
from safer_steer.dialogue import Script, Split

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


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lot = random.Random(0)
    items = [" ".join(lot.choices("abc", k=lot.randint(3, 9))) for _ in range(300)]
    whole = list(near_duplicates(items, 0.5))
    for budget in (0, 7, 1000):
        monkeypatch.setattr(shingles, "_BUDGET", budget)
        assert list(near_duplicates(items, 0.5)) == whole
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


def test_test_keeps_its_scripts_and_train_loses_them() -> None:
    scripts = [told("a", Split.TRAIN, LONG), told("b", Split.VAL, LONG), told("c", Split.TEST, LONG + " today")]
    kept, gone = deduplicate(scripts, 0.8)
    assert [s.id for s in kept] == ["c"]
    assert [(o.script.id, o.of.id, o.crosses_splits) for o in gone] == [("a", "c", True), ("b", "c", True)]


def test_within_a_split_the_first_id_stays() -> None:
    kept, gone = deduplicate([told("b", Split.TRAIN, LONG), told("a", Split.TRAIN, LONG)], 0.8)
    assert [s.id for s in kept] == ["a"]
    assert not gone[0].crosses_splits


@settings(max_examples=60, deadline=None)
@given(texts, thresholds, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_nothing_crosses(items: list[str], threshold: float, lot: random.Random) -> None:
    scripts = [told(f"{i:02}", list(Split)[i % 3], text or "-") for i, text in enumerate(items)]
    kept, gone = deduplicate(scripts, threshold)
    shuffled = lot.sample(scripts, len(scripts))
    assert deduplicate(shuffled, threshold) == (kept, gone)
    assert len(kept) + len(gone) == len(scripts)
    assert not contamination(kept, threshold)


def test_contamination_names_what_crosses() -> None:
    scripts = [
        told("a", Split.TRAIN, LONG),
        told("b", Split.TEST, LONG),
        told("c", Split.TRAIN, "how tall is the tower in this photograph", "seed-x"),
        told("d", Split.TEST, "where was that old postcard printed", "seed-x"),
    ]
    found = contamination(scripts, 0.8)
    assert found.seeds == ("seed-x",)
    assert [(o.script.id, o.of.id) for o in found.scripts] == [("a", "b")]


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
