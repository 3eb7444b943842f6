"""Survival and paired tests against lifelines, statsmodels and scikit-learn, on random data."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import restricted_mean_survival_time
from scipy import stats
from sklearn.utils import resample
from statsmodels.duration.survfunc import SurvfuncRight, survdiff
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from safer_steer.bench.comparison import Outcome, compare, holm, mcnemar
from safer_steer.bench.intervals import mean, wilson
from safer_steer.bench.survival import Observation, kaplan_meier, known_until, log_rank, log_ranks, restricted_mean

pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")


def observed(seed: int, count: int, hazard: float) -> list[Observation]:
    """Dialogues of 2 to 10 turns that fail at each turn with the same probability."""
    chance = np.random.default_rng(seed)
    fails, ends = chance.geometric(hazard, count), chance.integers(2, 11, count)
    return [(int(min(fail, end)), bool(fail <= end)) for fail, end in zip(fails, ends, strict=True)]


def columns(seen: list[Observation]) -> tuple[list[int], list[bool]]:
    return [turn for turn, _ in seen], [failed for _, failed in seen]


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_its_band_and_its_counts_are_lifelines(seed: int) -> None:
    seen = observed(seed, 80, 0.12)
    times, failed = columns(seen)
    peer = KaplanMeierFitter().fit(times, failed, timeline=range(11))
    band = peer.confidence_interval_
    for point in kaplan_meier(times, failed, max(times)):
        assert point.survival == pytest.approx(peer.predict(point.turn), abs=1e-9)
        if point.low is not None and 0 < point.survival < 1:
            assert (point.low, point.high) == pytest.approx(tuple(band.loc[point.turn]), abs=1e-9)
        row = peer.event_table.loc[point.turn]
        assert (point.at_risk, point.failures) == (row["at_risk"], row["observed"])
        assert point.hazard == pytest.approx(row["observed"] / row["at_risk"])
        ends = proportion_confint(point.failures, point.at_risk, method="wilson")
        assert (point.hazard_low, point.hazard_high) == pytest.approx(ends, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_greenwood_s_standard_error_is_statsmodels(seed: int) -> None:
    times, failed = columns(observed(seed, 60, 0.15))
    peer = SurvfuncRight(np.array(times), np.array(failed, dtype=int))
    ours = {point.turn: point for point in kaplan_meier(times, failed, max(times))}
    for turn, value, error in zip(peer.surv_times, peer.surv_prob, peer.surv_prob_se, strict=True):
        point = ours[int(turn)]
        assert point.survival == pytest.approx(value)
        if point.low is not None and 0 < value < 1:  # the log-log band from the standard error, written out
            spread = 1.959963984540054 * error / (value * np.log(value))
            assert point.low == pytest.approx(value ** np.exp(-spread), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_restricted_mean_is_lifelines_and_its_interval_the_bootstrap_s(seed: int) -> None:
    seen = observed(seed, 90, 0.1)
    times, failed = columns(seen)
    found = restricted_mean(seen)
    assert found is not None and found.horizon == known_until(seen)
    peer = KaplanMeierFitter().fit(times, failed)
    assert found.mean == pytest.approx(restricted_mean_survival_time(peer, t=found.horizon), abs=1e-6)

    def again(index: np.ndarray) -> float:
        drawn = restricted_mean([seen[int(i)] for i in index], found.horizon)
        assert drawn is not None
        return drawn.mean

    places = np.arange(len(seen))
    draws = [again(resample(places, random_state=draw)) for draw in range(300)]  # scikit-learn's bootstrap sample
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.15)


def test_the_restricted_mean_counts_as_far_as_the_curve_is_known() -> None:
    """Beyond a last dialogue that was still safe nobody knows; after a last failure S is 0 for good."""
    safe_at_6, failed_at_6 = restricted_mean([(2, True), (6, False)]), restricted_mean([(2, True), (6, True)])
    assert safe_at_6 is not None and (safe_at_6.horizon, safe_at_6.mean) == (6, 4.0)
    assert failed_at_6 is not None and (failed_at_6.horizon, failed_at_6.mean) == (10, 4.0)
    assert known_until([(6, True), (6, False)]) == 6


def test_the_restricted_mean_counts_turns() -> None:
    assert restricted_mean([]) is None
    safe = restricted_mean([(10, False)] * 5)
    assert safe is not None and (safe.mean, safe.low, safe.high, safe.failures) == (10.0, 10.0, 10.0, 0)
    at_once = restricted_mean([(1, True)] * 5 + [(10, False)] * 5)
    assert at_once is not None and at_once.mean == pytest.approx(5.5)


@pytest.mark.parametrize("seed", range(4))
def test_log_rank_is_lifelines_and_statsmodels(seed: int) -> None:
    groups = {"a": observed(seed, 50, 0.2), "b": observed(seed + 50, 70, 0.12), "c": observed(seed + 90, 40, 0.1)}
    times, failed, names = [], [], []
    for name, seen in groups.items():
        times += [turn for turn, _ in seen]
        failed += [fail for _, fail in seen]
        names += [name] * len(seen)
    found = log_rank(groups)
    assert found is not None and found.p is not None and found.statistic is not None
    peer = multivariate_logrank_test(times, names, failed)
    assert (found.statistic, found.p) == pytest.approx((peer.test_statistic, peer.p_value), rel=1e-6)
    statistic, p = survdiff(np.array(times), np.array(failed, dtype=int), np.array(names))
    assert (found.statistic, found.p) == pytest.approx((statistic, p), rel=1e-6)
    assert [test.models for test in log_ranks(groups)] == [("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c")]


def test_log_rank_of_two_is_scipy_s() -> None:
    one, two = observed(1, 60, 0.2), observed(2, 60, 0.1)
    sides = [stats.CensoredData.right_censored(*(np.array(c) for c in _censored(seen))) for seen in (one, two)]
    peer = stats.logrank(*sides)
    found = log_rank({"one": one, "two": two})
    assert found is not None and found.p == pytest.approx(peer.pvalue, rel=1e-9)
    assert found.statistic == pytest.approx(peer.statistic**2, rel=1e-9)


def _censored(seen: list[Observation]) -> tuple[list[int], list[bool]]:
    return [turn for turn, _ in seen], [not failed for _, failed in seen]


def test_log_rank_says_when_it_cannot_tell() -> None:
    nobody = {"a": [(10, False)] * 4, "b": [(9, False)] * 4}
    found = log_rank(nobody)
    assert found is not None and (found.statistic, found.p) == (None, None)
    assert log_rank({"a": [(1, True)], "b": []}) is None


@pytest.mark.parametrize("table", [(5, 15), (0, 6), (7, 7), (30, 12)])
def test_mcnemar_is_statsmodels(table: tuple[int, int]) -> None:
    peer = sm_mcnemar([[40, table[0]], [table[1], 20]], exact=True)
    assert mcnemar(*table) == pytest.approx(peer.pvalue)


def test_holm_is_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(12).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


def test_wilson_is_statsmodels() -> None:
    for passed, scored in ((0, 9), (3, 28), (50, 50)):
        assert wilson(passed, scored) == pytest.approx(proportion_confint(passed, scored, method="wilson"), abs=1e-12)


def made(key: str, safety: float, seen: Observation, **more: object) -> Outcome:
    passed = safety >= 2.8
    values = {"unsafe": True, "attacked": None, "help_pass": None, "over_refusals": (0, 0), **more}
    return Outcome(key=key, asked="same", safety=safety, helpfulness=None, safety_pass=passed, survival=seen, **values)  # type: ignore[arg-type]


def sides(count: int = 120) -> tuple[list[Outcome], list[Outcome]]:
    """Two models on the same dialogues, of which some are hard for both."""
    chance = np.random.default_rng(11)
    hard = chance.normal(0, 0.5, count)
    scores = [np.clip(2.6 + shift + hard + chance.normal(0, 0.3, count), -3, 3) for shift in (0.0, 0.35)]
    seen = [observed(seed, count, hazard) for seed, hazard in ((1, 0.25), (2, 0.1))]
    return tuple(
        [made(f"d{i}", float(score[i]), time[i]) for i in range(count)]
        for score, time in zip(scores, seen, strict=True)
    )  # type: ignore[return-value]


def test_paired_differences_are_scipy_s_paired_bootstrap() -> None:
    a, b = sides()
    found = compare(a, b)
    first, second = (np.array([one.safety for one in side]) for side in (a, b))
    peer = stats.bootstrap(
        (first, second), lambda x, y, axis: np.mean(y - x, axis=axis), paired=True, vectorized=True,
        method="percentile", n_resamples=5_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    safety = found["safety"]
    assert safety.difference == pytest.approx((second - first).mean())
    assert (safety.low, safety.high) == pytest.approx((peer.low, peer.high), abs=0.01)
    apart = mean((second - first).tolist())
    assert (safety.low, safety.high) == pytest.approx((apart.low, apart.high), abs=0.01)
    passed = found["safety_pass"]
    agree = sum(bool(x.safety_pass) != bool(y.safety_pass) for x, y in zip(a, b, strict=True))
    assert passed.only_a is not None and passed.only_b is not None and passed.only_a + passed.only_b == agree
    assert passed.p == mcnemar(passed.only_a, passed.only_b) and passed.test == "mcnemar_exact"


def test_the_paired_restricted_mean_is_the_difference_of_the_two() -> None:
    a, b = sides()
    found = compare(a, b)["survival"]
    alone = [restricted_mean([one.survival for one in side if one.survival is not None]) for side in (a, b)]
    assert alone[0] is not None and alone[1] is not None
    horizon = min(one.horizon for one in alone if one is not None)
    means = [restricted_mean([one.survival for one in side if one.survival is not None], horizon) for side in (a, b)]
    assert (found.a, found.b) == pytest.approx(tuple(m.mean for m in means if m is not None))
    assert found.low < found.difference < found.high and found.p < 0.01


def test_only_what_both_played_and_scored_is_compared_and_the_rest_is_counted() -> None:
    a = [made("1", 3.0, (4, False)), made("2", 1.0, (1, True)), made("3", 3.0, (4, False))]
    b = [made("1", 3.0, (4, False)), made("2", 3.0, (4, False)), made("4", 3.0, (4, False))]
    found = compare(a, b)["safety_pass"]
    assert (found.dialogues, found.left_out, found.only_a, found.only_b) == (2, 2, 0, 1)
    other = [Outcome(**{**{f: getattr(one, f) for f in Outcome.__slots__}, "asked": "something else"}) for one in b]
    assert compare(a, other) == {}
    assert compare(a, []) == {}


def test_over_refusals_are_compared_per_turn_with_dialogues_drawn() -> None:
    kinds = {"unsafe": False, "over_refusals": (3, 5)}
    a = [made(str(i), 3.0, (4, False), **kinds) for i in range(9)]
    b = [made(str(i), 3.0, (4, False), **{**kinds, "over_refusals": (1, 5)}) for i in range(9)]
    found = compare(a, b)
    assert set(found) == {"over_refusal"}
    assert (found["over_refusal"].a, found["over_refusal"].b) == pytest.approx((0.6, 0.2))


@pytest.mark.parametrize(("pairs", "least"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_a_handful_of_dialogues_of_one_sign_is_no_more_certain_than_an_exact_test(pairs: int, least: float) -> None:
    kinds = {"unsafe": False, "over_refusals": (3, 5)}
    a = [made(str(i), 3.0, (4, False), **kinds) for i in range(9)]
    b = [made(str(i), 3.0, (4, False), **{**kinds, "over_refusals": (3 - (i < pairs), 5)}) for i in range(9)]
    assert compare(a, b)["over_refusal"].p >= least
    x = [made(str(i), 2.0, (4, False)) for i in range(pairs)]
    y = [made(str(i), 2.5 + i / 10, (4, False)) for i in range(pairs)]
    found = compare(x, y)["safety"]
    assert found.p == pytest.approx(least)
    if pairs > 1:  # scipy wants two
        peer = stats.permutation_test(
            ([2.0] * pairs, [2.5 + i / 10 for i in range(pairs)]),
            lambda s, t, axis: np.mean(t - s, axis=axis),
            permutation_type="samples",
            vectorized=True,
        )
        assert found.p == pytest.approx(peer.pvalue)
