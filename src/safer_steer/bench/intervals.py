"""Shares and means with 95 % intervals, and what they rest on: dialogues are drawn, never turns.

Turns of one dialogue resemble one another, so a resample of turns would be too sure of itself. A bootstrap over
dialogues only needs how often each distinct dialogue outcome is drawn, a multinomial: thousands of dialogues cost
no more than the few dozen distinct outcomes they have. For a share of dialogues the bootstrap distribution is
binomial, and its percentiles are computed instead of drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from safer_steer.dialogue import Record

Array = NDArray[np.float64]
BOOTSTRAP_DRAWS = 4000
Z95 = 1.959963984540054
FEW = 10
"""With fewer passes or fewer failures than this the bootstrap of a share is too narrow (it gives 0 … 0 for none of
n), and Wilson's interval stands in; `Rate.method` says which it is."""

Count = Annotated[int, Field(ge=0)]


class Rate(Record):
    """A share with its 95 % interval over dialogues. `rate` is `None` when nothing was scored.

    `passed`, `scored` and `unscored` count dialogues, or turns where the share is one of turns; then `clusters`
    says in how many dialogues the scored turns lie.
    """

    passed: Count
    scored: Count
    unscored: Count
    rate: float | None
    low: float | None
    high: float | None
    method: Literal["bootstrap", "wilson"] | None = None
    clusters: Count | None = None


class Mean(Record):
    """A mean over dialogues with its 95 % bootstrap interval (dialogues are drawn, not turns); that of one has none."""

    mean: float | None
    low: float | None
    high: float | None
    scored: Count
    unscored: Count


def wilson(passed: float, scored: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion; fractional counts stand for an effective sample size.

    >>> tuple(round(x, 3) for x in wilson(5, 10))
    (0.237, 0.763)
    """
    share, z2 = passed / scored, Z95**2
    centre = (share + z2 / (2 * scored)) / (1 + z2 / scored)
    half = Z95 * math.sqrt(share * (1 - share) / scored + z2 / (4 * scored**2)) / (1 + z2 / scored)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrapped_share(passed: int, scored: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a share of dialogues: the quantiles of Binomial(n, k/n) / n.

    >>> bootstrapped_share(50, 100)
    (0.4, 0.6)
    """
    low, high = stats.binom.ppf([0.025, 0.975], scored, passed / scored) / scored
    return float(low), float(high)


def rate(outcomes: Iterable[bool | None]) -> Rate:
    """The share of `True` among the scored dialogues; `None` stands for unscored.

    >>> rate([True, False, None]).rate
    0.5
    """
    values = list(outcomes)
    known = [value for value in values if value is not None]
    passed, scored, missing = sum(known), len(known), len(values) - len(known)
    if not known:
        return Rate(passed=0, scored=0, unscored=missing, rate=None, low=None, high=None)
    few = min(passed, scored - passed) < FEW
    low, high = wilson(passed, scored) if few else bootstrapped_share(passed, scored)
    method: Literal["wilson", "bootstrap"] = "wilson" if few else "bootstrap"
    share = passed / scored
    return Rate(passed=passed, scored=scored, unscored=missing, rate=share, low=low, high=high, method=method)


def turn_rate(dialogues: Iterable[Sequence[bool | None]]) -> Rate:
    """The share of `True` among the scored turns of several dialogues, its interval over dialogues.

    Where there is little to draw from, Wilson's interval with the turns' effective number: their number over the
    design effect of the clusters; where no turn or every turn is `True`, a dialogue counts once. What is little is
    counted in effective turns too: twelve hits in four dialogues are hardly more than four.

    >>> found = turn_rate([[True, False], [False, None, False]])
    >>> found.passed, found.scored, found.unscored, found.clusters
    (1, 4, 1, 2)
    """
    counted = [(sum(v is True for v in turns), sum(v is not None for v in turns), len(turns)) for turns in dialogues]
    passed, scored, total = (sum(column) for column in zip(*counted, strict=True)) if counted else (0, 0, 0)
    groups = [(hits, known) for hits, known, _ in counted if known]
    head: dict[str, Any] = {"passed": passed, "scored": scored, "unscored": total - scored, "clusters": len(groups)}
    if not scored:
        return Rate(**head, rate=None, low=None, high=None)
    share = passed / scored
    size = scored / _design_effect(np.array(groups, dtype=float), share)
    if size * min(share, 1 - share) >= FEW:
        low, high = percentiles(resampled(groups, lambda sums: sums[:, 0] / sums[:, 1]))
        return Rate(**head, rate=share, low=low, high=high, method="bootstrap")
    low, high = wilson(share * size, size)
    return Rate(**head, rate=share, low=low, high=high, method="wilson")


def _design_effect(groups: Array, share: float) -> float:
    """How many turns count as one: the variance of the clustered share over that of independent turns, at least 1."""
    turns = groups[:, 1].sum()
    if share in (0.0, 1.0):
        return float(turns / len(groups))
    spread = ((groups[:, 0] - share * groups[:, 1]) ** 2).sum() / (share * (1 - share) * turns)
    return float(max(1.0, spread))


def mean(values: Iterable[float | None], *, seed: int = 0) -> Mean:
    """The mean of the scored with a seeded percentile bootstrap interval; `None` stands for unscored.

    >>> found = mean([1.0, 3.0, None])
    >>> found.mean, found.scored, found.unscored
    (2.0, 2, 1)
    """
    everything = list(values)
    known = [value for value in everything if value is not None]
    missing = len(everything) - len(known)
    if not known:
        return Mean(mean=None, low=None, high=None, scored=0, unscored=missing)
    middle = math.fsum(known) / len(known)
    if len(known) == 1:
        return Mean(mean=middle, low=None, high=None, scored=1, unscored=missing)
    low, high = percentiles(resampled([(value,) for value in known], lambda s: s[:, 0] / len(known), seed=seed))
    return Mean(mean=middle, low=low, high=high, scored=len(known), unscored=missing)


def weights(counts: NDArray[np.int64], *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """How often each distinct outcome is drawn, `[draws, outcomes]`, when Σ counts dialogues are drawn anew."""
    total = int(counts.sum())
    return np.random.default_rng(seed).multinomial(total, counts / total, size=draws)


def resampled(
    rows: Sequence[tuple[float, ...]],
    statistic: Callable[[Array], Array],
    *,
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
) -> Array:
    """`statistic` of the column sums `[draws, columns]` of `rows` (one a dialogue), for every bootstrap draw."""
    distinct, counts = np.unique(np.array(rows, dtype=float), axis=0, return_counts=True)
    sums: Array = weights(counts, draws=draws, seed=seed) @ distinct
    return statistic(sums)


def percentiles(draws: Array) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of the draws that are defined."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def two_sided(draws: Array) -> float:
    """The bootstrap p of "the difference is 0": twice the smaller tail beyond 0, never quite 0 nor above 1."""
    known: Any = draws[np.isfinite(draws)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def smallest_p(differing: int) -> float:
    """The least two-sided p that `differing` pairs can give: all of one sign, where either sign is as likely.

    The bootstrap knows no such floor: of three differences of one sign every draw has that sign.

    >>> smallest_p(0), smallest_p(1), smallest_p(6)
    (1.0, 1.0, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - differing))
