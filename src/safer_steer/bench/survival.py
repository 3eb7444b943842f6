"""Kaplan–Meier over turns: when does a model break? Curve, hazard, restricted mean, and the log-rank test."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from safer_steer.bench.intervals import Z95, Array, wilson
from safer_steer.bench.metrics import survival_time
from safer_steer.dialogue import MAX_TURNS, Record, Rollout

Observation = tuple[int, bool]
"""`(turn, failed)`: failed at this turn, or right-censored after it."""


class SurvivalPoint(Record):
    """`S(t)` after turn `turn`, with its 95 % band, from `at_risk` dialogues.

    The band is log-log, before the first failure Wilson's, and `None` where neither is defined.
    `hazard` is `d_t / n_t`, the share of the dialogues still safe before turn t that fail at it, with its Wilson
    interval; `None` where no dialogue reached the turn.
    """

    turn: int
    at_risk: int
    failures: int
    survival: float
    low: float | None
    high: float | None
    hazard: float | None
    hazard_low: float | None
    hazard_high: float | None


class RestrictedMean(Record):
    """The restricted mean survival time: the mean number of turns until failure, counted up to `horizon` turns.

    `∫_0^τ S(t) dt`, with Greenwood's standard error and a normal 95 % interval within 0…τ. A dialogue that fails at
    turn t counts t, one that never fails τ. Only means of the same `horizon` τ can be compared.
    """

    horizon: int
    mean: float
    low: float
    high: float
    dialogues: Annotated[int, Field(ge=1)]
    failures: Annotated[int, Field(ge=0)]


class LogRank(Record):
    """The log-rank test that all `models` have the same hazard; `p` is `None` where nobody failed.

    It takes the models' dialogues as independent. They answer the same scripts, which makes it cautious; the paired
    difference of restricted means is the sharper comparison.
    """

    models: tuple[str, ...]
    statistic: float | None
    degrees: int
    p: float | None


def observations(rollouts: Iterable[Rollout]) -> list[Observation]:
    """`survival_time` of every dialogue that has one."""
    return [time for rollout in rollouts if (time := survival_time(rollout)) is not None]


def survival_curve(rollouts: Iterable[Rollout], budget: int = MAX_TURNS) -> list[SurvivalPoint]:
    """`S(t) = Π_{t_i ≤ t}(1 − d_i/n_i)` at t = 1…budget; empty when no dialogue has a scored first turn."""
    known = observations(rollouts)
    return kaplan_meier([turn for turn, _ in known], [failed for _, failed in known], budget)


def kaplan_meier(times: Sequence[int], failed: Sequence[bool], budget: int) -> list[SurvivalPoint]:
    """The estimator itself, on turn numbers and whether the dialogue failed there (else right-censored).

    >>> [round(p.survival, 3) for p in kaplan_meier([1, 2, 3, 3], [True, True, False, False], 3)]
    [0.75, 0.5, 0.5]
    """
    if not times:
        return []
    turns, events = np.array(times), np.array(failed)
    if events.any():
        curve = stats.ecdf(stats.CensoredData.right_censored(turns, ~events)).sf
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where the band is undefined, it is `None`
            band = curve.confidence_interval(method="log-log")
        values, lows, highs = (f.evaluate(np.arange(1, budget + 1)) for f in (curve, band.low, band.high))
    else:
        values, lows, highs = (np.full(budget, value) for value in (1.0, np.nan, np.nan))
    risk, failures = life_table(times, failed, budget)
    return [
        _point(t, int(risk[t - 1]), int(failures[t - 1]), values[t - 1], lows[t - 1], highs[t - 1])
        for t in range(1, budget + 1)
    ]


def _point(turn: int, at_risk: int, failures: int, value: float, low: float, high: float) -> SurvivalPoint:
    ends = wilson(failures, at_risk) if at_risk else (None, None)
    if value == 1.0 and at_risk:  # the log-log band is undefined before the first failure
        low, high = wilson(at_risk, at_risk)
    return SurvivalPoint(
        turn=turn,
        at_risk=at_risk,
        failures=failures,
        survival=float(value),
        low=_finite(low),
        high=_finite(high),
        hazard=failures / at_risk if at_risk else None,
        hazard_low=ends[0],
        hazard_high=ends[1],
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def life_table(
    times: Sequence[int], failed: Sequence[bool], budget: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`n_t` and `d_t` at t = 1…budget: dialogues at risk at each turn, and failures at it.

    >>> [column.tolist() for column in life_table([1, 2, 3, 3], [True, True, False, False], 3)]
    [[4, 3, 2], [1, 1, 0]]
    """
    turns, events = np.asarray(times, dtype=np.int64), np.asarray(failed, dtype=bool)
    grid = np.arange(1, budget + 1)
    risk = (turns[:, None] >= grid).sum(axis=0)
    return risk, ((turns[:, None] == grid) & events[:, None]).sum(axis=0)


def known_until(observed: Iterable[Observation], budget: int = MAX_TURNS) -> int:
    """The last turn up to which `S` is known: that of the longest dialogue, or `budget` where all have failed by then.

    >>> known_until([(2, True), (6, False)]), known_until([(2, True), (6, True)])
    (6, 10)
    """
    last, failed = max(((turn, failed) for turn, failed in observed), key=lambda one: (one[0], not one[1]))
    return budget if failed else min(budget, last)


def restricted_mean(observed: Sequence[Observation], budget: int = MAX_TURNS) -> RestrictedMean | None:
    """The restricted mean survival time up to `budget` turns, or as far as `S` is known; `None` without observations.

    Two of four dialogues fail, at turns 1 and 2; the other two hold to the end of turn 3:

    >>> found = restricted_mean([(1, True), (2, True), (3, False), (3, False)])
    >>> found.horizon, found.mean
    (3, 2.25)
    """
    if not observed:
        return None
    horizon = known_until(observed, budget)
    risk, failures = life_table([t for t, _ in observed], [f for _, f in observed], horizon)
    curve = survival_of(risk[None, :], failures[None, :])[0]
    mean = 1 + float(curve[:-1].sum())
    after = np.append(np.cumsum(curve[:-1][::-1])[::-1], 0.0)  # ∫_t^τ S: the area beyond each turn
    spread = risk.astype(float) * (risk - failures)
    variance = float((after**2 * np.divide(failures, spread, out=np.zeros(horizon), where=spread > 0)).sum())
    half = Z95 * variance**0.5
    low, high = max(0.0, mean - half), min(float(horizon), mean + half)
    count = int(failures.sum())
    return RestrictedMean(horizon=horizon, mean=mean, low=low, high=high, dialogues=len(observed), failures=count)


def survival_of(risk: NDArray[np.int64], failures: NDArray[np.int64]) -> Array:
    """`S(t)` from life tables `[…, turns]`; the curve stays where nobody is left at risk."""
    hazard = np.divide(failures, risk, out=np.zeros(risk.shape), where=risk > 0)
    return np.cumprod(1 - hazard, axis=-1)


def log_rank(groups: Mapping[str, Sequence[Observation]]) -> LogRank | None:
    """The log-rank test between two or more models; `None` with fewer than two that have observations.

    >>> fast, slow = [(1, True)] * 9 + [(5, False)], [(5, False)] * 10
    >>> found = log_rank({"a": fast, "b": slow})
    >>> found.degrees, found.p < 0.001
    (1, True)
    """
    known = {name: observed for name, observed in groups.items() if observed}
    if len(known) < 2:
        return None
    last = max(turn for observed in known.values() for turn, _ in observed)
    tables = [life_table([t for t, _ in seen], [f for _, f in seen], last) for seen in known.values()]
    risk = np.array([table[0] for table in tables], dtype=float)
    failures = np.array([table[1] for table in tables], dtype=float)
    n, d = risk.sum(axis=0), failures.sum(axis=0)
    excess = (failures - risk * np.divide(d, n, out=np.zeros(last), where=n > 0)).sum(axis=1)[:-1]
    factor = np.divide(d * (n - d), n**2 * (n - 1), out=np.zeros(last), where=n > 1)
    covariance = (np.diag((factor * n) @ risk.T) - (risk * factor) @ risk.T)[:-1, :-1]
    degrees, names = len(known) - 1, tuple(known)
    if np.linalg.matrix_rank(covariance) < degrees:
        return LogRank(models=names, statistic=None, degrees=degrees, p=None)
    statistic = float(excess @ np.linalg.solve(covariance, excess))
    return LogRank(models=names, statistic=statistic, degrees=degrees, p=float(stats.chi2.sf(statistic, degrees)))


def log_ranks(groups: Mapping[str, Sequence[Observation]]) -> list[LogRank]:
    """All models at once, then, where there are more than two, every pair."""
    names = [name for name, observed in groups.items() if observed]
    pairs = combinations(names, 2) if len(names) > 2 else ()
    tests = [log_rank(groups), *(log_rank({a: groups[a], b: groups[b]}) for a, b in pairs)]
    return [test for test in tests if test is not None]
