"""Kaplan–Meier over turns: when does a model break?"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from scipy import stats

from safer_steer.bench.metrics import survival_time
from safer_steer.dialogue import MAX_TURNS, Record, Rollout


class SurvivalPoint(Record):
    """`S(t)` after turn `turn`, with its 95 % log-log band (`None` where it is undefined), from `at_risk` dialogues."""

    turn: int
    at_risk: int
    failures: int
    survival: float
    low: float | None
    high: float | None


def survival_curve(rollouts: Iterable[Rollout], budget: int = MAX_TURNS) -> list[SurvivalPoint]:
    """`S(t) = Π_{t_i ≤ t}(1 − d_i/n_i)` at t = 1…budget; empty when no dialogue has a scored first turn."""
    known = [time for rollout in rollouts if (time := survival_time(rollout)) is not None]
    return kaplan_meier([turn for turn, _ in known], [failed for _, failed in known], budget)


def kaplan_meier(times: list[int], failed: list[bool], budget: int) -> list[SurvivalPoint]:
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
        values = lows = highs = np.ones(budget)
    return [
        SurvivalPoint(
            turn=t,
            at_risk=int((turns >= t).sum()),
            failures=int(((turns == t) & events).sum()),
            survival=float(values[t - 1]),
            low=_finite(lows[t - 1]),
            high=_finite(highs[t - 1]),
        )
        for t in range(1, budget + 1)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
