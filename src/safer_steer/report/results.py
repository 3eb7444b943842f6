"""What a report is computed from: evaluations read back from disk, and differences with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from safer_steer.bench.books import outcomes
from safer_steer.bench.comparison import Outcome, Paired
from safer_steer.bench.evaluate import Summary
from safer_steer.bench.intervals import Mean, Rate
from safer_steer.bench.survival import Observation, RestrictedMean, known_until, restricted_mean
from safer_steer.dialogue import MAX_TURNS, Record
from safer_steer.errors import StorageError
from safer_steer.report.heat import HeatMap
from safer_steer.report.transcripts import Told, tell
from safer_steer.verdict import Stamp

MODELS = ("base", "sft", "safer_steer")
PROTOCOLS = ("static", "adaptive")
LABELS = {"base": "Base", "sft": "SFT", "safer_steer": "SaFeR-Steer"}

SIGNIFICANT = 0.05
_HEAD = ("counts", "pass_rates")
_AGAIN = "it was edited or written by another version: run the evaluation again, it resumes and writes a new summary"


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluation as read back: which model and protocol, its figures, and its dialogues reduced to the page's."""

    model: str
    protocol: str
    summary: Summary
    told: tuple[Told, ...]
    heat: HeatMap

    @property
    def label(self) -> str:
        return LABELS.get(self.model, self.model)

    @property
    def judge(self) -> Stamp:
        return self.summary.of.judge

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(one.outcome for one in self.told)

    @property
    def survival_times(self) -> list[Observation]:
        """Of the unsafe dialogues that have one."""
        return [one.survival for one in self.outcomes if one.unsafe and one.survival is not None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and what it rests on; `value` is `None` when nothing was scored."""

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int


class Difference(Record):
    """`b − a` with a 95 % interval.

    `paired` says that it is of the same dialogues on both sides (`dialogues` of them; `left_out` were not played or
    scored by both): a paired bootstrap over dialogues, and for shares of dialogues McNemar's exact `p`. Where nothing
    can be paired the two sides are taken as independent and the interval is made of theirs (MOVER), without a `p`; the
    interval is that too where no dialogue differs between the sides.
    `overlap` is of the two sides' own intervals.
    """

    value: float
    low: float
    high: float
    overlap: bool
    significant: bool
    paired: bool = False
    p: float | None = None
    p_holm: float | None = None
    dialogues: int | None = None
    left_out: int | None = None
    only_a: int | None = None
    only_b: int | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the results table: where the figure stands, its unit, and which direction is better."""

    key: str
    title: str
    under: str
    percent: bool
    higher: bool
    get: Callable[[Summary], Rate | Mean | RestrictedMean | None]
    floor: float
    ceiling: float

    def of(self, summary: Summary) -> Estimate:
        found = self.get(summary)
        if found is None:
            return Estimate(None, None, None, 0, 0)
        if isinstance(found, RestrictedMean):
            missing = summary.unsafe.counts.dialogues - found.dialogues
            return Estimate(found.mean, found.low, found.high, found.dialogues, missing)
        value = found.rate if isinstance(found, Rate) else found.mean
        return Estimate(value, found.low, found.high, found.scored, found.unscored)


METRICS = (
    Metric("safety_pass", "Safety pass", "unsafe dialogues", True, True, lambda s: s.unsafe.safety_pass, 0, 1),
    Metric("safety", "Mean safety", "unsafe dialogues, −3…3", False, True, lambda s: s.unsafe.safety, -3, 3),
    Metric(
        "attack_success", "Attack success", "unsafe dialogues, the guard's word", True, False,
        lambda s: None if s.unsafe.guard is None else s.unsafe.guard.attack_success, 0, 1,
    ),
    Metric("survival", "Turns to failure", "restricted mean, unsafe", False, True, lambda s: s.restricted_mean, 0, 10),
    Metric(
        "benign_helpfulness", "Helpfulness", "benign dialogues, 0…3", False, True,
        lambda s: s.benign.helpfulness, 0, 3,
    ),
    Metric(
        "benign_help_pass", "Helpful pass", "benign dialogues", True, True, lambda s: s.benign.helpfulness_pass, 0, 1,
    ),
    Metric(
        "over_refusal", "Over-refusal", "turns of benign dialogues", True, False,
        lambda s: s.benign.over_refusals, 0, 1,
    ),
)  # fmt: skip
BY_KEY = {metric.key: metric for metric in METRICS}
SAFETY_PASS, HELPFULNESS, OVER_REFUSAL = BY_KEY["safety_pass"], BY_KEY["benign_helpfulness"], BY_KEY["over_refusal"]


def metrics_of(results: Iterable[Result]) -> list[Metric]:
    """The columns to show: a guard's only where there was one, the rubric's only where it was asked."""
    every = list(results)
    shown = [m for m in METRICS if any((e := m.of(r.summary)).scored or e.unscored for r in every)]
    return shown or [SAFETY_PASS]


def read_summary(folder: Path) -> Summary:
    """An evaluation's figures; raises `StorageError` when they are missing or were written by something else."""
    path = folder / "summary.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise StorageError("is not a JSON object", where=path)
        body = {key: value for key, value in values.items() if key not in _HEAD}
        return Summary.model_validate_json(json.dumps(body))
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=path, hint="run the evaluation first") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"not an evaluation's summary: {place}: {first['msg']}", where=path, hint=_AGAIN) from error
    except ValueError as error:
        raise StorageError(f"not JSON: {error}", where=path, hint=_AGAIN) from error


def read_result(folder: Path, model: str | None = None, protocol: str | None = None) -> Result:
    """An evaluation's folder; raises `StorageError` when its summary is missing or was written by something else."""
    summary = read_summary(folder)
    of = summary.of
    heat = HeatMap()
    told = []
    for rollout in outcomes(folder):
        heat.add(rollout)
        told.append(tell(rollout, safety_pass=of.safety_pass, help_pass=of.help_pass))
    return Result(
        of.model if model is None else model,
        of.protocol if protocol is None else protocol,
        summary,
        tuple(told),
        heat,
    )


def common_horizon(results: Iterable[Result]) -> int:
    """The last turn up to which every evaluation's survival curve is known: what restricted means are counted up to."""
    seen = [result.survival_times for result in results]
    return min((known_until(times) for times in seen if times), default=MAX_TURNS)


def level(results: Sequence[Result]) -> list[Result]:
    """The results with their restricted means counted up to the same turn, so that they can stand in one table."""
    horizon = common_horizon(results)
    return [
        replace(
            result,
            summary=result.summary.model_copy(
                update={"restricted_mean": restricted_mean(result.survival_times, horizon)}
            ),
        )
        for result in results
    ]


def difference(a: Estimate, b: Estimate) -> Difference | None:
    """`b − a`; its interval combines the two by the method of variance estimates recovery. `None` if either is missing.

    The two are treated as independent; where both answered the same scripts, `change` has the sharper figure.

    >>> d = difference(Estimate(0.2, 0.1, 0.4, 9, 0), Estimate(0.8, 0.6, 0.9, 9, 0))
    >>> (round(d.value, 3), round(d.low, 3), round(d.high, 3), d.overlap)
    (0.6, 0.317, 0.741, False)
    """
    if a.value is None or b.value is None or a.low is None or b.low is None or a.high is None or b.high is None:
        return None
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    overlap = a.low <= b.high and b.low <= a.high
    return Difference(value=value, low=low, high=high, overlap=overlap, significant=low > 0 or high < 0)


def change(metric: Metric, a: Result, b: Result, paired: Paired | None) -> Difference | None:
    """`b − a` of a metric: paired where the same dialogues have it on both sides, else of two independent figures."""
    mine, theirs = metric.of(a.summary), metric.of(b.summary)
    apart = difference(mine, theirs)
    if paired is None or apart is None:
        return apart
    exact = paired.test == "mcnemar_exact"
    same = paired.low == paired.high  # no dialogue differs: there is nothing to draw from
    low, high = (apart.low, apart.high) if same else (paired.low, paired.high)
    return Difference(
        value=paired.difference,
        low=low,
        high=high,
        overlap=apart.overlap,
        significant=paired.p < SIGNIFICANT and (exact or low > 0 or high < 0),
        paired=True,
        p=paired.p,
        p_holm=paired.p_holm,
        dialogues=paired.dialogues,
        left_out=paired.left_out,
        only_a=paired.only_a,
        only_b=paired.only_b,
    )


def shown(value: float | None, percent: bool) -> str:
    """A figure as text: `83 %`, `2.41`, or a dash where there is none; real minus signs, no break before the unit.

    >>> shown(0.834, True), shown(-1.5, False), shown(None, True)
    ('83\xa0%', '−1.50', '–')
    """
    if value is None:
        return "–"
    return _typeset(f"{100 * value:.0f} %" if percent else f"{value:.2f}")


def signed(value: float, percent: bool) -> str:
    """A difference as text; percentages differ by points, and what rounds to nothing has no sign.

    >>> signed(0.31, True), signed(-0.2, False), signed(-0.001, True)
    ('+31\xa0points', '−0.20', '0\xa0points')
    """
    digits = f"{100 * value:+.0f}" if percent else f"{value:+.2f}"
    plain = digits if float(digits) else digits.lstrip("+-")
    return _typeset(f"{plain} points" if percent else plain)


def interval(low: float | None, high: float | None, percent: bool, difference: bool = False) -> str:
    """An interval as text, or nothing where there is none.

    >>> interval(0.711, 0.92, True), interval(-1.0, 0.5, False), interval(-0.3, 0.02, True, difference=True)
    ('71–92\xa0%', '−1.00\xa0to\xa00.50', '−30\xa0to\xa0+2')
    """
    if low is None or high is None:
        return ""
    if difference:
        ends = (f"{100 * low:+.0f} to {100 * high:+.0f}") if percent else f"{low:+.2f} to {high:+.2f}"
        return _typeset(ends)
    return _typeset(f"{100 * low:.0f}–{100 * high:.0f} %" if percent else f"{low:.2f} to {high:.2f}")


def p_value(p: float | None) -> str:
    """A p value as text.

    >>> p_value(0.00002), p_value(0.034), p_value(0.42), p_value(None)
    ('< 0.001', '0.034', '0.42', '–')
    """
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _typeset(text: str) -> str:
    return text.replace("-", "−").replace(" ", "\u00a0")
