"""Kaplan–Meier against the product formula written out, against itself under permutation, and by hand."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people import rollout, scored, script
from safer_steer.bench.intervals import wilson
from safer_steer.bench.survival import kaplan_meier, survival_curve
from safer_steer.dialogue import MAX_TURNS, StopReason
from safer_steer.verdict import Unscored, UnscoredReason

pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")

observations = st.lists(st.tuples(st.integers(1, MAX_TURNS), st.booleans()), min_size=1, max_size=40)


def by_hand(seen: list[tuple[int, bool]], t: int) -> float:
    """`Π_{s ≤ t} (1 − d_s / n_s)`, straight from the definition."""
    product = 1.0
    for turn in range(1, t + 1):
        at_risk = sum(time >= turn for time, _ in seen)
        failures = sum(time == turn and failed for time, failed in seen)
        product *= 1 - failures / at_risk if at_risk else 1
    return product


@given(observations)
def test_the_product_formula(seen):
    curve = kaplan_meier([time for time, _ in seen], [failed for _, failed in seen], MAX_TURNS)
    assert [point.turn for point in curve] == list(range(1, MAX_TURNS + 1))
    for point in curve:
        assert math.isclose(point.survival, by_hand(seen, point.turn), abs_tol=1e-9)
        assert point.at_risk == sum(time >= point.turn for time, _ in seen)
        assert point.failures == sum(time == point.turn and failed for time, failed in seen)


@given(observations)
def test_it_never_rises_and_lies_in_its_band(seen):
    curve = kaplan_meier([time for time, _ in seen], [failed for _, failed in seen], MAX_TURNS)
    values = [1.0, *(point.survival for point in curve)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))
    for point in curve:
        if point.low is not None and point.high is not None:
            assert -1e-9 <= point.low <= point.survival + 1e-9
            assert point.survival - 1e-9 <= point.high <= 1 + 1e-9


@given(observations, st.randoms(use_true_random=False))
def test_the_order_of_dialogues_does_not_matter(seen, chance: random.Random):
    mixed = list(seen)
    chance.shuffle(mixed)
    first, second = (kaplan_meier([t for t, _ in some], [f for _, f in some], MAX_TURNS) for some in (seen, mixed))
    assert first == second


def test_without_censoring_it_is_the_share_still_standing():
    times = [1, 2, 2, 5, 9, 10]
    curve = kaplan_meier(times, [True] * 6, MAX_TURNS)
    assert [point.survival for point in curve] == pytest.approx([sum(x > t for x in times) / 6 for t in range(1, 11)])


def test_greenwood_s_log_log_band_by_hand():
    """n = 10, two failures at turn 2: S = .8, Var(log S) = 2 / (10·8)."""
    point = kaplan_meier([2, 2] + [10] * 8, [True, True] + [False] * 8, MAX_TURNS)[4]
    spread = 1.959963984540054 * math.sqrt(2 / 80) / math.log(0.8)
    assert point.survival == pytest.approx(0.8)
    assert (point.low, point.high) == pytest.approx((0.8 ** math.exp(-spread), 0.8 ** math.exp(spread)))


def test_nobody_observed_and_nobody_failed():
    assert kaplan_meier([], [], 10) == []
    curve = kaplan_meier([3, 5], [False, False], 6)
    assert [point.survival for point in curve] == [1.0] * 6
    lows = [wilson(2, 2)[0]] * 3 + [wilson(1, 1)[0]] * 2 + [None]
    assert [point.low for point in curve] == lows, "two dialogues that held do not make a certainty"
    assert [point.high for point in curve] == [1.0] * 5 + [None]
    assert kaplan_meier([2, 3], [True, False], 3)[0].low == wilson(2, 2)[0]


def test_dialogues_are_censored_where_they_stop_being_known():
    missing = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="no number")
    fails_at_2 = rollout(script("a", "b", id="one"), [scored(3), scored(1)])
    unknown_at_2 = rollout(script("a", "b", "c", id="two"), [scored(2), missing, scored(-3)])
    never_known = rollout(script("a", id="three"), [missing])
    broke = rollout(script("a", "b", id="four"), [scored(3), scored(3)]).model_copy(
        update={"stop": StopReason.ASSISTANT_FAULT, "fault": "down"}
    )
    curve = survival_curve([fails_at_2, unknown_at_2, never_known, broke], budget=3)
    assert [(p.at_risk, p.failures) for p in curve] == [(3, 0), (2, 1), (0, 0)]
    assert [p.survival for p in curve] == pytest.approx([1.0, 0.5, 0.5])
