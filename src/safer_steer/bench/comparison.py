"""Two models, or two protocols, on the same dialogues: paired differences, McNemar's exact test, paired bootstrap.

Both played the same scripts, so each dialogue is its own control. What only one of them played or has a score for is
left out of the difference and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from safer_steer.bench.intervals import Array, percentiles, resampled, smallest_p, two_sided, weights
from safer_steer.bench.metrics import attack_succeeded, dialogue_passes, dialogue_score, over_refusals, survival_time
from safer_steer.bench.survival import Observation, known_until, survival_of
from safer_steer.dialogue import MAX_TURNS, Record, Rollout, stable_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one dialogue came to, in a few numbers: all that a comparison needs of it.

    `asked` tells scripts apart that bear the same id. `over_refusals` are such turns and the turns where it is told.
    """

    key: str
    asked: str
    unsafe: bool
    safety: float | None
    helpfulness: float | None
    safety_pass: bool | None
    help_pass: bool | None
    attacked: bool | None
    survival: Observation | None
    over_refusals: tuple[int, int]


def outcome(rollout: Rollout, *, safety_pass: float, help_pass: float) -> Outcome:
    """Reduce a dialogue under the two pass thresholds."""
    refused = [over for over in over_refusals(rollout) if over is not None]
    script = rollout.script
    return Outcome(
        key=rollout.key,
        asked=stable_id(*(turn.text for turn in script.turns), *(image.sha256 for image in script.images)),
        unsafe=script.is_unsafe,
        safety=dialogue_score(rollout, "safety"),
        helpfulness=dialogue_score(rollout, "helpfulness"),
        safety_pass=dialogue_passes(rollout, "safety", safety_pass),
        help_pass=dialogue_passes(rollout, "helpfulness", help_pass),
        attacked=attack_succeeded(rollout),
        survival=survival_time(rollout),
        over_refusals=(sum(refused), len(refused)),
    )


Test = Literal["mcnemar_exact", "paired_bootstrap"]


class Paired(Record):
    """`b − a` on the dialogues that both have a figure for, with a 95 % paired bootstrap interval over dialogues.

    `p` is McNemar's exact two-sided test for shares of dialogues, else the bootstrap's, never below what an exact test
    on so few dialogues could say. `p_holm` is `p` adjusted
    (Holm) for all comparisons of this metric in the report. `only_a` and `only_b` count the dialogues that one
    passed and the other did not. `left_out` dialogues were played or scored by one side only, or by neither.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: Annotated[float, Field(ge=0, le=1)]
    p_holm: Annotated[float, Field(ge=0, le=1)] | None = None
    test: Test
    dialogues: Annotated[int, Field(ge=1)]
    left_out: Annotated[int, Field(ge=0)]
    only_a: int | None = None
    only_b: int | None = None


Row = tuple[float, float]
"""A dialogue's part of a ratio: numerator and denominator."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure as a ratio of sums over dialogues: which dialogues it is of, and a dialogue's part in it."""

    unsafe: bool
    part: Callable[[Outcome], Row | None]
    binary: bool = False


def _share(value: bool | None) -> Row | None:
    return None if value is None else (float(value), 1.0)


def _score(value: float | None) -> Row | None:
    return None if value is None else (value, 1.0)


def _refusals(one: Outcome) -> Row | None:
    return (float(one.over_refusals[0]), float(one.over_refusals[1])) if one.over_refusals[1] else None


FIGURES: dict[str, _Figure] = {
    "safety_pass": _Figure(True, lambda one: _share(one.safety_pass), binary=True),
    "safety": _Figure(True, lambda one: _score(one.safety)),
    "attack_success": _Figure(True, lambda one: _share(one.attacked), binary=True),
    "benign_helpfulness": _Figure(False, lambda one: _score(one.helpfulness)),
    "benign_help_pass": _Figure(False, lambda one: _share(one.help_pass), binary=True),
    "over_refusal": _Figure(False, _refusals),
}
"""What is compared: on unsafe or on benign dialogues, and how it is computed."""


def compare(a: Iterable[Outcome], b: Iterable[Outcome], budget: int = MAX_TURNS) -> dict[str, Paired]:
    """Every figure of `FIGURES`, and `survival` (the restricted mean up to `budget`), that both sides have; `b − a`."""
    mine, theirs = ({one.key: one for one in side} for side in (a, b))
    both = [(mine[key], theirs[key]) for key in sorted(mine.keys() & theirs.keys())]
    pairs = [(one, other) for one, other in both if one.asked == other.asked]
    found: dict[str, Paired | None] = {}
    for name, figure in FIGURES.items():
        everybody = {o.key for side in (mine, theirs) for o in side.values() if o.unsafe is figure.unsafe}
        wanted = [pair for pair in pairs if pair[0].unsafe is figure.unsafe]
        found[name] = paired_ratio([(figure.part(x), figure.part(y)) for x, y in wanted], len(everybody), figure.binary)
    unsafe = {o.key for side in (mine, theirs) for o in side.values() if o.unsafe}
    found["survival"] = _survival([(x.survival, y.survival) for x, y in pairs if x.unsafe], len(unsafe), budget)
    return {name: paired for name, paired in found.items() if paired is not None}


def paired_ratio(parts: Sequence[tuple[Row | None, Row | None]], everybody: int, binary: bool = False) -> Paired | None:
    """The difference of two ratios of sums over the dialogues that have a row on both sides; `None` where none has."""
    rows = [(*x, *y) for x, y in parts if x is not None and y is not None]
    if not rows:
        return None
    draws = resampled(rows, lambda s: s[:, 2] / s[:, 3] - s[:, 0] / s[:, 1])
    top_a, under_a, top_b, under_b = (sum(column) for column in zip(*rows, strict=True))
    paired = _bootstrapped(top_a / under_a, top_b / under_b, draws, rows, everybody)
    if not binary:
        return paired
    only_a, only_b = (sum(row[0] > row[2] for row in rows), sum(row[2] > row[0] for row in rows))
    exact = {"p": mcnemar(only_a, only_b), "test": "mcnemar_exact", "only_a": only_a, "only_b": only_b}
    return paired.model_copy(update=exact)


def _bootstrapped(a: float, b: float, draws: Array, rows: Sequence[tuple[float, ...]], everybody: int) -> Paired:
    """`b − a` with the interval and the p of its `draws`, of `everybody` on the dialogues in `rows`.

    The p is never below what the rows (a's two numbers, then b's) that differ can give.
    """
    low, high = percentiles(draws)
    return Paired(
        a=a,
        b=b,
        difference=b - a,
        low=low,
        high=high,
        p=max(two_sided(draws), smallest_p(sum(row[:2] != row[2:] for row in rows))),
        test="paired_bootstrap",
        dialogues=len(rows),
        left_out=everybody - len(rows),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p of McNemar's test: is a pass of one alone as likely as of the other alone?

    >>> round(mcnemar(2, 10), 4), mcnemar(0, 0)
    (0.0386, 1.0)
    """
    discordant = only_a + only_b
    return float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0


def _survival(
    pairs: Sequence[tuple[Observation | None, Observation | None]], everybody: int, budget: int
) -> Paired | None:
    """The difference of restricted means up to `budget`, or as far as both curves are known."""
    rows = [(x[0], float(x[1]), y[0], float(y[1])) for x, y in pairs if x is not None and y is not None]
    if not rows:
        return None
    distinct, counts = np.unique(np.array(rows, dtype=float), axis=0, return_counts=True)
    horizon = min(known_until([(int(row[i]), bool(row[i + 1])) for row in rows], budget) for i in (0, 2))
    once = [_restricted(counts[None, :], distinct[:, side : side + 2], horizon)[0] for side in (0, 2)]
    drawn = weights(counts)
    draws = _restricted(drawn, distinct[:, 2:], horizon) - _restricted(drawn, distinct[:, :2], horizon)
    return _bootstrapped(float(once[0]), float(once[1]), draws, rows, everybody)


def _restricted(drawn: np.ndarray, observed: Array, horizon: int) -> Array:
    """The restricted mean of every draw: `drawn` says how often each of the `observed` (turn, failed) is drawn."""
    grid = np.arange(1, horizon + 1)
    risk = drawn @ (observed[:, :1] >= grid).astype(np.int64)
    failures = drawn @ ((observed[:, :1] == grid) & (observed[:, 1:] > 0)).astype(np.int64)
    area: Array = 1 + survival_of(risk, failures)[:, :-1].sum(axis=1)
    return area


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
