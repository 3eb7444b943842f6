"""Choosing tokens: literal cases, frequencies, independence of the batch."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.actors.local.sampling import Draw, choose, log_policy, nucleus

NOTHING = torch.tensor([], dtype=torch.long)
LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.999999, 2)])
def test_drawing_inverts_the_cumulative_distribution(u: float, token: int) -> None:
    tokens, logprobs = choose(LOGITS, [Draw(1.0, 1.0, u)], NOTHING)
    assert tokens == [token]
    assert logprobs == [pytest.approx(math.log((0.5, 0.3, 0.2)[token]), abs=1e-6)]


def test_greedy_takes_the_likeliest_at_temperature_one() -> None:
    assert choose(LOGITS, [Draw(0.0, 1.0, 0.99)], NOTHING) == ([0], [pytest.approx(math.log(0.5), abs=1e-6)])


def test_banned_tokens_are_out_before_the_softmax() -> None:
    tokens, logprobs = choose(LOGITS, [Draw(1.0, 1.0, 0.1)], torch.tensor([0]))
    assert tokens == [1]
    assert logprobs == [pytest.approx(math.log(0.6), abs=1e-6)]


def test_top_p_narrows_the_draw_and_leaves_the_log_probability() -> None:
    tokens, logprobs = choose(LOGITS, [Draw(1.0, 0.6, 0.99)], NOTHING)
    assert tokens == [1]
    assert logprobs == [pytest.approx(math.log(0.3), abs=1e-6)]


def test_temperature_is_applied_after_banning_and_before_the_log_probability() -> None:
    expected = torch.log_softmax(LOGITS / 2, -1)
    assert torch.allclose(log_policy(LOGITS, 2.0, NOTHING), expected)


def test_frequencies_follow_the_policy() -> None:
    rng = random.Random(0)
    draws = [Draw(1.0, 1.0, rng.random()) for _ in range(4000)]
    tokens, _ = choose(LOGITS.expand(4000, -1), draws, NOTHING)
    shares = [tokens.count(token) / 4000 for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


ROWS = st.lists(
    st.tuples(
        st.lists(st.floats(-20, 20), min_size=6, max_size=6),
        st.sampled_from([0.0, 0.3, 1.0, 3.0]),
        st.sampled_from([0.2, 0.9, 1.0]),
        st.floats(0, 1, exclude_max=True),
    ),
    min_size=1,
    max_size=6,
)


@given(ROWS)
def test_a_row_chooses_the_same_alone_and_in_company(rows: list[tuple[list[float], float, float, float]]) -> None:
    logits = torch.tensor([row[0] for row in rows])
    draws = [Draw(*row[1:]) for row in rows]
    banned = torch.tensor([2])
    tokens, logprobs = choose(logits, draws, banned)
    for index, draw in enumerate(draws):
        (token,), (logprob,) = choose(logits[index : index + 1], [draw], banned)
        assert (token, logprob) == (tokens[index], pytest.approx(logprobs[index], abs=1e-6))
        assert token != 2
        assert math.isfinite(logprob)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.floats(0.01, 1))
def test_the_nucleus_is_the_smallest_set_that_reaches_its_mass(weights: list[float], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, top_p)
    mass, smallest = float(kept.sum()), float(kept[kept > 0].min())
    assert mass >= top_p - 1e-9
    assert mass - smallest < top_p + 1e-9
