"""What the numbers say, in sentences computed from them."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.report.comparisons import Comparisons, one_mark
from safer_steer.report.naming import judge_names
from safer_steer.report.results import (
    BY_KEY,
    HELPFULNESS,
    OVER_REFUSAL,
    SAFETY_PASS,
    Difference,
    Metric,
    Result,
    interval,
    metrics_of,
    p_value,
    shown,
    signed,
)


def headline(results: Sequence[Result], compared: Comparisons) -> list[str]:
    """First against last model, protocol by protocol and judge by judge, and the price on benign dialogues."""
    judges = judge_names(results)
    sentences: list[str] = []
    if len(judges) > 1:
        names = ", ".join(judges.values())
        sentences.append(f"The judges differ ({names}): what one says is not compared with what another says.")
    for protocol in compared.protocols:
        for judge, name in judges.items():
            chain = [result for result in results if result.protocol == protocol and result.judge == judge]
            if chain:
                told = _alone(chain[0]) if len(chain) == 1 else _against(chain[0], chain[-1], compared)
                sentences.append(told if len(judges) == 1 else f"By {name}: {told}")
    cost = _benign_cost(results, compared) if len(judges) == 1 else None
    return [*sentences, cost] if cost else sentences


def _alone(result: Result) -> str:
    if SAFETY_PASS not in metrics_of([result]) and BY_KEY["attack_success"].of(result.summary).scored:
        return _attacked(result)
    found = SAFETY_PASS.of(result.summary)
    if found.value is None:
        return f"{result.label}, {result.protocol}: no unsafe dialogue could be scored."
    span = f"95\u00a0% interval {interval(found.low, found.high, True)}, {_counted(found.scored, found.unscored)}"
    share = f"{shown(found.value, True)} of the unsafe dialogues ({span})"
    return f"{result.label} stays safe in {share} against {result.protocol} users."


def _attacked(result: Result) -> str:
    found = BY_KEY["attack_success"].of(result.summary)
    span = f"95\u00a0% interval {interval(found.low, found.high, True)}, {_counted(found.scored, found.unscored)}"
    share = f"{shown(found.value, True)} of the unsafe dialogues ({span})"
    return f"The guard calls {result.label} unsafe at some turn of {share} against {result.protocol} users."


def _counted(scored: int, unscored: int) -> str:
    return f"{scored} scored" + (f", {unscored} unscored" if unscored else "")


def _against(first: Result, last: Result, compared: Comparisons) -> str:
    metric = SAFETY_PASS if SAFETY_PASS in metrics_of([first, last]) else BY_KEY["attack_success"]
    name = metric.title.lower() + (" rate" if metric is SAFETY_PASS else "")
    a, b = metric.of(first.summary), metric.of(last.summary)
    pair = compared.pair(first, last)
    found = None if pair is None else pair.figures.get(metric.key)
    if pair is None or found is None:
        why = "too little was scored" if one_mark(metric, first, last) else "their pass marks differ"
        return f"Against {last.protocol} users {first.label} and {last.label} cannot be compared: {why}."
    both = f"{shown(b.value, True)} for {last.label} and {shown(a.value, True)} for {first.label}"
    head = f"Against {last.protocol} users the {name} is {both}"
    if not pair.shared:
        return f"{head}, but they were not asked the same dialogues: the difference may be the dialogues'."
    verdict = f"{signed(found.value, True)}" if found.significant else "no significant difference"
    return f"{head}: {verdict} ({evidence(found, metric)})."


def evidence(found: Difference, metric: Metric) -> str:
    """What a difference rests on, in a bracket's worth of words."""
    span = f"95\u00a0% interval {interval(found.low, found.high, metric.percent, difference=True)}"
    if not found.paired:
        return f"{span}, the two taken as independent"
    test = "McNemar" if found.only_a is not None else "bootstrap"
    return f"{span}, {test} p {p_value(found.p)}, {found.dialogues} dialogues of both"


def _benign_cost(results: Sequence[Result], compared: Comparisons) -> str | None:
    """The price in usefulness, told under the first protocol that has benign dialogues for both models."""
    for protocol in compared.protocols:
        chain = [result for result in results if result.protocol == protocol]
        first, last = chain[0], chain[-1]
        pair = compared.pair(first, last)
        if pair is None or not pair.shared:
            continue
        helped, refused = (pair.figures.get(metric.key) for metric in (HELPFULNESS, OVER_REFUSAL))
        if helped is not None and refused is not None:
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
