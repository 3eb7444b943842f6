"""What a report is computed from: evaluations read back from disk, differences with intervals, and the headline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from safer_steer.bench.evaluate import Summary, outcomes
from safer_steer.bench.intervals import Mean, Rate
from safer_steer.bench.metrics import Group
from safer_steer.dialogue import Record, Rollout
from safer_steer.errors import StorageError

MODELS = ("base", "sft", "safer_steer")
PROTOCOLS = ("static", "adaptive")
LABELS = {"base": "Base", "sft": "SFT", "safer_steer": "SaFeR-Steer"}

_HEAD = ("counts", "pass_rates")
_AGAIN = "it was edited or written by another version: run the evaluation again, it resumes and writes a new summary"


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluation as read back: which model and protocol, its figures and its dialogues."""

    model: str
    protocol: str
    summary: Summary
    rollouts: tuple[Rollout, ...]

    @property
    def label(self) -> str:
        return LABELS.get(self.model, self.model)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and what it rests on; `value` is `None` when nothing was scored."""

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int


class Difference(Record):
    """`b − a` with a 95 % interval made of the two intervals (MOVER), and whether those two overlap.

    `significant` says that the difference's own interval excludes 0; intervals that do not overlap say more.
    """

    value: float
    low: float
    high: float
    overlap: bool
    significant: bool


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the results table: where the figure stands, its unit, and which direction is better."""

    key: str
    title: str
    under: str
    percent: bool
    higher: bool
    unsafe: bool
    field: str
    floor: float
    ceiling: float

    def of(self, summary: Summary) -> Estimate:
        figures: Group = summary.unsafe if self.unsafe else summary.benign
        found: Rate | Mean = getattr(figures, self.field)
        value = found.rate if isinstance(found, Rate) else found.mean
        return Estimate(value, found.low, found.high, found.scored, found.unscored)


METRICS = (
    Metric("safety_pass", "Safety pass", "unsafe dialogues", True, True, True, "safety_pass", 0, 1),
    Metric("safety", "Mean safety", "unsafe dialogues, −3…3", False, True, True, "safety", -3, 3),
    Metric("benign_helpfulness", "Helpfulness", "benign dialogues, 0…3", False, True, False, "helpfulness", 0, 3),
    Metric("benign_help_pass", "Helpful pass", "benign dialogues", True, True, False, "helpfulness_pass", 0, 1),
    Metric("over_refusal", "Over-refusal", "turns of benign dialogues", True, False, False, "over_refusals", 0, 1),
)
SAFETY_PASS, HELPFULNESS, OVER_REFUSAL = METRICS[0], METRICS[2], METRICS[4]


def read_result(folder: Path, model: str | None = None, protocol: str | None = None) -> Result:
    """An evaluation's folder; raises `StorageError` when its summary is missing or was written by something else."""
    path = folder / "summary.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise StorageError("is not a JSON object", where=path)
        body = {key: value for key, value in values.items() if key not in _HEAD}
        summary = Summary.model_validate_json(json.dumps(body))
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=path, hint="run the evaluation first") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"not an evaluation's summary: {place}: {first['msg']}", where=path, hint=_AGAIN) from error
    except ValueError as error:
        raise StorageError(f"not JSON: {error}", where=path, hint=_AGAIN) from error
    of = summary.of
    return Result(
        of.model if model is None else model,
        of.protocol if protocol is None else protocol,
        summary,
        tuple(outcomes(folder)),
    )


def difference(a: Estimate, b: Estimate) -> Difference | None:
    """`b − a`; its interval combines the two by the method of variance estimates recovery. `None` if either is missing.

    The two are treated as independent, which is cautious here: both models answered the same scripts.

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


def _typeset(text: str) -> str:
    return text.replace("-", "−").replace(" ", "\u00a0")


def headline(results: Sequence[Result]) -> list[str]:
    """What the numbers say, in sentences computed from them: first against last model, protocol by protocol."""
    sentences: list[str] = []
    for protocol in _protocols(results):
        chain = [result for result in results if result.protocol == protocol]
        if len(chain) == 1:
            sentences.append(_alone(chain[0]))
        else:
            sentences.append(_against(chain[0], chain[-1]))
    cost = _benign_cost(results)
    return [*sentences, cost] if cost else sentences


def _protocols(results: Iterable[Result]) -> list[str]:
    seen = list(dict.fromkeys(result.protocol for result in results))
    return sorted(seen, key=lambda name: (PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS), name))


def _alone(result: Result) -> str:
    found = SAFETY_PASS.of(result.summary)
    if found.value is None:
        return f"{result.label}, {result.protocol}: no unsafe dialogue could be scored."
    span = f"95\u00a0% interval {interval(found.low, found.high, True)}, {found.scored} scored"
    share = f"{shown(found.value, True)} of the unsafe dialogues ({span})"
    return f"{result.label} stays safe in {share} against {result.protocol} users."


def _against(first: Result, last: Result) -> str:
    a, b = SAFETY_PASS.of(first.summary), SAFETY_PASS.of(last.summary)
    found = difference(a, b)
    if found is None:
        return (
            f"Against {last.protocol} users {first.label} and {last.label} cannot be compared: too little was scored."
        )
    both = f"{shown(b.value, True)} for {last.label} and {shown(a.value, True)} for {first.label}"
    head = f"Against {last.protocol} users the safety pass rate is {both}"
    if not found.significant:
        return f"{head}: not significant, the 95\u00a0% intervals overlap."
    by = f"{signed(abs(found.value), True).lstrip('+')} {'higher' if found.value > 0 else 'lower'}"
    if found.overlap:
        span = interval(found.low, found.high, True, difference=True)
        return f"{head}: {by} (95\u00a0% interval {span}), though the two models' own intervals overlap."
    return f"{head}: {by}, and the 95\u00a0% intervals do not overlap."


def _benign_cost(results: Sequence[Result]) -> str | None:
    """The price in usefulness, told under the first protocol that has benign dialogues for both models."""
    for protocol in _protocols(results):
        chain = [result for result in results if result.protocol == protocol]
        first, last = chain[0], chain[-1]
        helped = difference(HELPFULNESS.of(first.summary), HELPFULNESS.of(last.summary))
        refused = difference(OVER_REFUSAL.of(first.summary), OVER_REFUSAL.of(last.summary))
        if first is last or helped is None or refused is None:
            continue
        return (
            f"On benign dialogues ({protocol}) helpfulness, 0…3, {_changed(helped, False)} "
            f"and over-refusal {_changed(refused, True)}."
        )
    return None


def _changed(found: Difference, percent: bool) -> str:
    by = signed(found.value, percent)
    if by[0] not in "+−":
        return "stayed the same"
    return f"changed by {by}" + ("" if found.significant else " (not significant)")
