"""Bootstrap intervals against scipy's, against their coverage, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from safer_steer.bench.intervals import (
    FEW,
    bootstrapped_share,
    mean,
    rate,
    resampled,
    turn_rate,
    two_sided,
    wilson,
)


@pytest.mark.parametrize(("passed", "scored"), [(20, 60), (150, 200), (11, 40)])
def test_the_computed_bootstrap_of_a_share_is_scipy_s_drawn_one(passed: int, scored: int) -> None:
    values = np.array([1.0] * passed + [0.0] * (scored - passed))
    drawn = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrapped_share(passed, scored) == pytest.approx((drawn.low, drawn.high), abs=1.01 / scored)


@given(st.lists(st.sampled_from([True, False, None]), max_size=80))
def test_few_passes_or_few_failures_fall_back_to_wilson(values: list[bool | None]) -> None:
    found = rate(values)
    if found.rate is None or found.low is None or found.high is None:
        assert (found.method, found.low, found.high) == (None, None, None)
        return
    few = min(found.passed, found.scored - found.passed) < FEW
    assert found.method == ("wilson" if few else "bootstrap")
    assert 0 <= found.low <= found.rate <= found.high <= 1 and found.low < found.high


@pytest.mark.parametrize(("share", "n"), [(0.02, 30), (0.1, 60), (0.3, 80), (0.5, 28), (0.9, 120)])
def test_the_interval_of_a_share_covers_the_truth(share: float, n: int) -> None:
    """Exactly, from the binomial: the percentile bootstrap alone would cover .45 of the time at (0.02, 30)."""
    covered = 0.0
    for passed in range(n + 1):
        found = rate([True] * passed + [False] * (n - passed))
        assert found.low is not None and found.high is not None
        covered += stats.binom.pmf(passed, n, share) * (found.low <= share <= found.high)
    assert covered > 0.92


def test_a_mean_s_interval_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).integers(-3, 4, 150) / 2
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(1)
    ).confidence_interval
    found = mean(values.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_turns_of_one_dialogue_are_drawn_together() -> None:
    """Forty dialogues whose ten turns agree know no more than forty turns do: scipy, drawing whole dialogues."""
    chance = np.random.default_rng(7)
    dialogues = [[bool(chance.random() < 0.4)] * 10 for _ in range(40)]
    found = turn_rate(dialogues)
    by_dialogue = np.array([float(turns[0]) for turns in dialogues])
    expected = stats.bootstrap(
        (by_dialogue,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert (found.scored, found.clusters, found.method) == (400, 40, "bootstrap")
    naive = wilson(found.passed, found.scored)
    assert found.high is not None and found.low is not None
    assert found.high - found.low > 2 * (naive[1] - naive[0])


def test_what_is_few_is_counted_in_effective_turns() -> None:
    """Four dialogues all of whose three turns are hits are four observations of 28, not twelve."""
    found = turn_rate([[True] * 3] * 4 + [[False] * 3] * 24)
    assert (found.rate, found.method) == (pytest.approx(4 / 28), "wilson")
    assert (found.low, found.high) == pytest.approx(wilson(4, 28))


def test_one_dialogue_has_a_mean_and_no_interval() -> None:
    found = mean([2.0, None])
    assert (found.mean, found.low, found.high, found.scored, found.unscored) == (2.0, None, None, 1, 1)


def test_without_any_flag_a_dialogue_counts_once() -> None:
    found = turn_rate([[False] * 5] * 12)
    assert (found.rate, found.low, found.high) == (0.0, 0.0, pytest.approx(wilson(0, 12)[1]))
    assert turn_rate([]).rate is None and turn_rate([[None, None]]).unscored == 2


@given(st.lists(st.lists(st.sampled_from([True, False, None]), max_size=10), max_size=12))
def test_a_turn_rate_counts_every_turn_once_and_lies_in_its_interval(dialogues: list[list[bool | None]]) -> None:
    found = turn_rate(dialogues)
    turns = [turn for each in dialogues for turn in each]
    assert (found.passed, found.scored, found.unscored) == (
        turns.count(True), len(turns) - turns.count(None), turns.count(None),
    )  # fmt: skip
    if found.rate is not None and found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.rate <= found.high <= 1


def test_the_bootstrap_p_value() -> None:
    assert two_sided(np.array([1.0] * 99)) == pytest.approx(2 / 100)
    assert two_sided(np.array([-1.0, 1.0] * 50)) == 1.0
    rows = [(value, 1.0) for value in np.random.default_rng(0).normal(0.3, 1, 60)]
    draws = resampled(rows, lambda s: s[:, 0] / s[:, 1])
    expected = stats.ttest_1samp([value for value, _ in rows], 0).pvalue
    assert two_sided(draws) == pytest.approx(expected, abs=0.02)
