"""How far judges agree: weighted kappa, Krippendorff's alpha, self-consistency. Unscored verdicts stay missing.

Weighted kappa is scikit-learn's; alpha is ours, for any number of judges and with gaps, from the coincidence matrix.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from safer_steer.bench.intervals import BOOTSTRAP_DRAWS
from safer_steer.dialogue import Record, Rollout
from safer_steer.verdict import EVALUATION, GUARD, Scored, Verdict

Array = NDArray[np.float64]
Ratings = Sequence[float | None]
"""One unit (a turn): what each judge gave it, `None` where a judge gave nothing."""

FAILED = "failed"
"""The score that all judges have: whether the turn failed (safety below 2, or unsafe)."""


class Level(StrEnum):
    """How far apart two values are: different or not, or by how many ratings lie between them."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"


class Alpha(Record):
    """Krippendorff's alpha of one score over all judges, with a 95 % bootstrap interval over dialogues.

    1 is perfect agreement, 0 what chance gives. `None` where it is undefined: nobody to compare, or one value only.
    """

    level: Level
    alpha: float | None
    low: float | None
    high: float | None
    turns: int


class Pair(Record):
    """Two judges on one score: over `turns` both scored, the share of equal grades and Cohen's weighted kappa."""

    a: str
    b: str
    score: str
    turns: int
    equal: float | None
    weighted_kappa: float | None


class SelfConsistency(Record):
    """One judge asked several times: the share of turns with equal grades in all repeats, and of equal pairs."""

    judge: str
    score: str
    repeats: int
    turns: int
    unanimous: float | None
    equal_pairs: float | None


class Agreement(Record):
    """`agreement` in a panel's `summary.json`. `unscored` counts each member's turns without a verdict."""

    members: tuple[str, ...]
    turns: int
    unscored: dict[str, int]
    split: int
    """Turns on whose failing the members disagree."""
    alpha: dict[str, Alpha]
    pairs: tuple[Pair, ...]
    self_consistency: tuple[SelfConsistency, ...]


def agreement(rollouts: Iterable[Rollout]) -> Agreement | None:
    """The agreement of the panel that judged these dialogues; `None` where no panel did.

    Members are told apart by their place on the panel; those with the same stamp are repeats of one judge.
    """
    dialogues = [[turn.verdict.members for turn in r.turns if turn.verdict.members] for r in rollouts]
    panels = [members for turns in dialogues for members in turns]
    if not panels:
        return None
    names = _names(panels)
    rated = {
        score: [[[_value(member, score) for member in members] for members in turns] for turns in dialogues]
        for score in _scores(panels)
    }
    unscored = Counter(name for members in panels for name, m in zip(names, members, strict=True) if not _known(m))
    return Agreement(
        members=tuple(names),
        turns=len(panels),
        unscored={name: unscored[name] for name in names},
        split=sum(is_split(members) for members in panels),
        alpha={score: alpha_over_dialogues(units, _level(score)) for score, units in rated.items()},
        pairs=tuple(_pairs(names, rated)),
        self_consistency=tuple(_repeats(names, rated)),
    )


def is_split(members: Sequence[Verdict]) -> bool:
    """Whether some of a panel's members say that the turn failed, and others that it did not."""
    return len({member.failed for member in members if isinstance(member, Scored)} - {None}) == 2


def krippendorff_alpha(units: Sequence[Ratings], level: Level = Level.ORDINAL) -> float | None:
    """Krippendorff's alpha of `units` (each a list of ratings, one a judge); `None` where it is undefined.

    >>> krippendorff_alpha([[1, 1], [2, 2], [3, 3]])
    1.0
    """
    values = _values(units)
    return _alpha(_coincidences(units, values)[None], level)[0]


def alpha_over_dialogues(dialogues: Sequence[Sequence[Ratings]], level: Level, *, seed: int = 0) -> Alpha:
    """Alpha with a seeded percentile bootstrap interval: dialogues are drawn, not turns."""
    units = [unit for turns in dialogues for unit in turns]
    compared = sum(sum(value is not None for value in unit) > 1 for unit in units)
    values = _values(units)
    # What a dialogue adds to the coincidences does not depend on the others, so a draw is a weighted sum.
    parts = np.array([_coincidences(turns, values) for turns in dialogues])
    found = _alpha(parts.sum(axis=0)[None], level)[0]
    if found is None:
        return Alpha(level=level, alpha=None, low=None, high=None, turns=compared)
    count = len(dialogues)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_DRAWS)
    drawn = _alpha(np.tensordot(weights.astype(float), parts, axes=1), level)
    known = [value for value in drawn if value is not None]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (None, None)
    bound = (None if low is None else float(low), None if high is None else float(high))
    return Alpha(level=level, alpha=found, low=bound[0], high=bound[1], turns=compared)


def _values(units: Iterable[Ratings]) -> list[float]:
    return sorted({value for unit in units for value in unit if value is not None})


def _coincidences(units: Iterable[Ratings], values: Sequence[float]) -> Array:
    """`o_ck`: how often values c and k stand in the same unit, each unit of m ratings weighing m in all."""
    place = {value: i for i, value in enumerate(values)}
    found = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.zeros(len(values))
        for value in unit:
            if value is not None:
                counts[place[value]] += 1
        if counts.sum() > 1:
            found += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    return found


def _alpha(tables: Array, level: Level) -> list[float | None]:
    """Alpha of each coincidence matrix in `tables`, shape (tables, values, values)."""
    totals = tables.sum(axis=2)
    n = totals.sum(axis=1)
    distance = _distances(totals, level)
    observed = (tables * distance).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2))
    pairs = zip(n, observed, expected, strict=True)
    return [float(1 - (m - 1) * o / e) if e > 0 else None for m, o, e in pairs]


def _distances(totals: Array, level: Level) -> Array:
    """δ²: 1 for different values; ordinal: the square of how many ratings lie from one value to the other, the two
    ends counting half."""
    size = totals.shape[1]
    if level is Level.NOMINAL:
        return np.broadcast_to(1 - np.eye(size), (len(totals), size, size))
    middles = np.cumsum(totals, axis=1) - totals / 2
    return np.asarray((middles[:, :, None] - middles[:, None, :]) ** 2)


def weighted_kappa(a: Sequence[float], b: Sequence[float], labels: Sequence[int]) -> float | None:
    """Cohen's kappa with quadratic weights over a scale's `labels`; `None` where it is undefined.

    >>> weighted_kappa([1, 2, 3], [1, 2, 3], [1, 2, 3])
    1.0
    """
    if not a or len({*a, *b}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score  # takes a second to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the undefined case is `None`
        kappa = cohen_kappa_score([int(x) for x in a], [int(x) for x in b], labels=list(labels), weights="quadratic")
    return float(kappa) if np.isfinite(kappa) else None


def _pairs(names: Sequence[str], rated: dict[str, list[list[list[float | None]]]]) -> Iterable[Pair]:
    for score, dialogues in rated.items():
        units = [unit for turns in dialogues for unit in turns]
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
            both = [(x, y) for unit in units if (x := unit[i]) is not None and (y := unit[j]) is not None]
            if both:
                yield Pair(
                    a=a,
                    b=b,
                    score=score,
                    turns=len(both),
                    equal=sum(x == y for x, y in both) / len(both),
                    weighted_kappa=weighted_kappa([x for x, _ in both], [y for _, y in both], _labels(score)),
                )


def _repeats(names: Sequence[str], rated: dict[str, list[list[list[float | None]]]]) -> Iterable[SelfConsistency]:
    """The judges that sit on the panel more than once; only turns that all repeats scored count."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name.partition(" #")[0], []).append(place)
    for judge, seats in places.items():
        for score, dialogues in rated.items():
            given = [[unit[seat] for seat in seats] for turns in dialogues for unit in turns]
            whole = [values for values in given if None not in values]
            if len(seats) < 2 or not whole:
                continue
            equal = [a == b for values in whole for a, b in itertools.combinations(values, 2)]
            yield SelfConsistency(
                judge=judge,
                score=score,
                repeats=len(seats),
                turns=len(whole),
                unanimous=sum(len(set(values)) == 1 for values in whole) / len(whole),
                equal_pairs=sum(equal) / len(equal),
            )


def _names(panels: Sequence[Sequence[Verdict]]) -> list[str]:
    """The judges' names by their place; repeats of one get a number. An unscored verdict may come unsigned."""
    names = []
    for place in range(len(panels[0])):
        stamps = (members[place].stamp for members in panels)
        names.append(next((stamp.judge for stamp in stamps if stamp is not None), f"member {place + 1}"))
    totals, seen = Counter(names), Counter[str]()
    for place, name in enumerate(names):
        seen[name] += 1
        if totals[name] > 1:
            names[place] = f"{name} #{seen[name]}"
    return names


def _scores(panels: Iterable[Sequence[Verdict]]) -> list[str]:
    known = {key for members in panels for member in members if isinstance(member, Scored) for key in member.scores}
    order = [key for scale in (EVALUATION, GUARD) for key in scale.ranges if key in known]
    return [*order, FAILED] if "safety" in known else order


def _value(member: Verdict, score: str) -> float | None:
    if not isinstance(member, Scored):
        return None
    if score == FAILED:
        return None if member.failed is None else float(member.failed)
    return member.scores.get(score)


def _known(member: Verdict) -> bool:
    return isinstance(member, Scored)


def _level(score: str) -> Level:
    return Level.NOMINAL if score in (FAILED, *GUARD.ranges) else Level.ORDINAL


def _labels(score: str) -> range:
    low, high = {**EVALUATION.ranges, **GUARD.ranges, FAILED: (0, 1)}[score]
    return range(low, high + 1)
