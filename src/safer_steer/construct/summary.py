"""What Stage I counted: sizes by kind, split, strategy and category, turns, success rate, what was left out and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from safer_steer.construct.records import Reason, Rejected
from safer_steer.dialogue import Script, ScriptKind


def counts(scripts: Sequence[Script], left_out: Sequence[Rejected], attacked: int) -> dict[str, Any]:
    """The figures for `stage.json`. `attacked` is how many red-team scripts the success filter decided over."""
    by_split: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for script in scripts:
        by_split[str(script.split)][script.kind.value] += 1
    reasons = Counter(str(item.reason) for item in left_out)
    failed = sum(reasons[reason] for reason in (Reason.NO_LEAK, Reason.UNSCORED, Reason.PLAY_FAULT))
    return {
        "scripts": len(scripts),
        "kinds": tally(script.kind for script in scripts),
        "splits": {split: dict(sorted(by_split[split].items())) for split in sorted(by_split)},
        "strategies": tally(script.strategy for script in scripts if script.strategy is not None),
        "categories": tally(script.category for script in scripts),
        "turns": {
            "all": turns(scripts),
            **{str(kind): turns([s for s in scripts if s.kind is kind]) for kind in ScriptKind},
        },
        "attacks": {
            "played": attacked,
            "succeeded": attacked - failed,
            "success_rate": (attacked - failed) / attacked if attacked else None,
        },
        "perturbed_images": sum(
            ref.name is not None and ref.name.endswith(("+noise", "+trigger")) for s in scripts for ref in s.images
        ),
        "left_out": dict(sorted(reasons.items())),
    }


def tally(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, sorted by name."""
    return {str(name): number for name, number in sorted(Counter(names).items())}


def turns(scripts: Sequence[Script]) -> dict[str, Any]:
    """Mean and histogram of the number of turns; the mean of no scripts is `None`."""
    lengths = [len(script.turns) for script in scripts]
    histogram = {str(length): number for length, number in sorted(Counter(lengths).items())}
    return {"mean": sum(lengths) / len(lengths) if lengths else None, "histogram": histogram}
