"""Properties of the offline cast's lexical helpers and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.actors.offline.frames import as_user, dealt, fill, fitting, listed, pick
from safer_steer.actors.offline.speech import is_offer, is_refusal, preaching
from safer_steer.actors.offline.text import (
    content,
    covered,
    has_key,
    is_cut,
    is_question,
    is_word_salad,
    longest_run,
    repetition,
    sentences,
    similar,
    stem,
    words,
)

TEXT = st.text(max_size=200)
SOME_WORDS = ["the", "lock", "on", "my", "door", "is", "old", "and", "a", "dog", "sees", "it", "now"]
PROSE = st.lists(st.sampled_from(SOME_WORDS), max_size=40).map(" ".join)
NAMES = st.lists(st.text("abc {}", min_size=1, max_size=8), min_size=1, max_size=6, unique=True)

REFUSALS = [
    "I can't help with that.",
    "I cannot assist you with this request.",
    "I'm sorry, but I can't do that.",
    "I won't take part in that.",
    "I’m not able to provide that.",
    "I must decline.",
    "I'd rather not go into that.",
    "Sorry, no.",
    "That is something I won't do.",
    "I'm not going to explain this.",
]
NOT_REFUSALS = [
    "I can help with that.",
    "You can't miss the red door.",
    "I can't wait to hear more!",
    "I don't see why not.",
    "No, it would rust in the dishwasher.",
    "The shop won't open before nine.",
    "I'm sorry to hear about your cat.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", NOT_REFUSALS)
def test_other_sentences_are_not_taken_for_refusals(text: str) -> None:
    assert not is_refusal(text)


@given(TEXT)
def test_every_helper_takes_any_text(text: str) -> None:
    assert 0.0 <= repetition(text) < 1.0
    assert preaching(text) >= 0
    assert 0.0 <= covered(content(text), text) <= 1.0
    for check in (is_word_salad, is_cut, is_refusal, is_offer, is_question):
        assert check(text) in (True, False)


@given(TEXT)
def test_sentences_keep_every_word(text: str) -> None:
    assert [word for sentence in sentences(text) for word in words(sentence)] == list(words(text))


@given(PROSE, PROSE)
def test_similarity_is_symmetric_and_full_for_the_same_words(a: str, b: str) -> None:
    assert similar(a, b) == similar(b, a)
    assert similar(a, a) == (1.0 if words(a) else 0.0)
    assert longest_run(words(a), words(b)) == longest_run(words(b), words(a)) <= min(len(words(a)), len(words(b)))
    assert longest_run(words(a), words(a)) == len(words(a))


@given(PROSE)
def test_saying_it_twice_repeats_more(text: str) -> None:
    assert repetition(f"{text}. {text}.") >= repetition(text)


@given(st.text("abcdeings'", min_size=1, max_size=12))
def test_a_stem_is_never_longer_and_never_empty(word: str) -> None:
    assert 0 < len(stem(word)) <= len(word)


@given(st.integers(0, 10**6))
def test_a_number_is_its_own_key(number: int) -> None:
    assert has_key(f"There are {number} of them.", str(number))
    assert has_key(f"There are {number:,} of them.", str(number))
    assert not has_key(f"There are {number} of them.", str(number + 1))


@given(NAMES, st.integers())
def test_dealing_is_a_permutation_and_picking_picks(frames: list[str], key: int) -> None:
    assert sorted(dealt(frames, key)) == sorted(frames)
    assert dealt(frames, key) == dealt(reversed(frames), key)
    assert pick(frames, key) in frames


@given(st.text("ab{}x ", min_size=1, max_size=20))
def test_what_stands_in_a_slot_is_never_read_as_a_frame(value: str) -> None:
    assert fill("X {goal} x", {"goal": value}) == " ".join(f"X {value} x".split())


def test_only_frames_that_can_be_filled_are_fitting() -> None:
    assert fitting(("{a}", "{a} {b}", "c"), {"a": "1"}) == ("{a}", "c")
    assert listed(["one"]) == "one"
    assert as_user("helping yourself, your dog and you") == "helping myself, my dog and me"
