"""What Stage I counted: sizes by kind, split, strategy and category, turns, success rate, what was left out and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from safer_steer.construct.records import Reason, Rejected
from safer_steer.dialogue import ImageRef, Script, ScriptKind, Split


class Counting:
    """Counts scripts as they go by, for `stage.json`. `attacked`: how many the success filter decided over."""

    def __init__(self, attacked: int) -> None:
        self._attacked = attacked
        self.reasons: Counter[str] = Counter()
        self._splits: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._strategies: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._lengths: defaultdict[str, list[int]] = defaultdict(list)
        self._by_strategy: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._perturbed = 0

    def kept(self, script: Script) -> Script:
        """Count a script that stays; gives it back."""
        self._splits[str(script.split)][script.kind.value] += 1
        self._categories[script.category] += 1
        self._lengths[str(script.kind)].append(len(script.turns))
        self._perturbed += sum(is_perturbed(ref) for ref in script.images)
        if script.strategy is not None:
            self._strategies[script.strategy] += 1
            if script.split is Split.TRAIN:
                self._by_strategy[script.strategy]["succeeded"] += 1
        return script

    def left_out(self, entry: Rejected) -> Rejected:
        """Count what does not stay; gives it back."""
        self.reasons[str(entry.reason)] += 1
        if entry.strategy is not None and entry.script is not None and entry.split is Split.TRAIN:
            self._by_strategy[entry.strategy][_verdict_on(entry.reason)] += 1
        return entry

    def result(self) -> dict[str, Any]:
        """All figures; what depends on nothing is `None`, never 0."""
        failed, unknown = self.reasons[Reason.NO_LEAK], sum(self.reasons[reason] for reason in UNDECIDED_ATTACK)
        decided = self._attacked - unknown
        everything = [length for kind in ScriptKind for length in self._lengths[str(kind)]]
        return {
            "scripts": len(everything),
            "kinds": {str(k): len(self._lengths[str(k)]) for k in sorted(ScriptKind) if self._lengths[str(k)]},
            "splits": {split: dict(sorted(self._splits[split].items())) for split in sorted(self._splits)},
            "strategies": dict(sorted(self._strategies.items())),
            "categories": dict(sorted(self._categories.items())),
            "turns": {
                "all": spread(everything),
                **{str(kind): spread(self._lengths[str(kind)]) for kind in ScriptKind},
            },
            "attacks": {
                "played": self._attacked,
                "undecided": unknown,
                "succeeded": decided - failed,
                "success_rate": (decided - failed) / decided if decided else None,
                "by_strategy": self._success() if self._attacked else {},
            },
            "perturbed_images": self._perturbed,
            "left_out": dict(sorted(self.reasons.items())),
        }

    def _success(self) -> dict[str, dict[str, int]]:
        return {
            name: {"played": counts.total(), "undecided": counts["undecided"], "succeeded": counts["succeeded"]}
            for name, counts in sorted(self._by_strategy.items())
        }


UNDECIDED_ATTACK = (Reason.UNSCORED, Reason.PLAY_FAULT)
"""Attacks that nobody can say of whether they worked: they are in no rate."""


def _verdict_on(reason: Reason) -> str:
    """What is known of an attack that was left out for that reason."""
    return "undecided" if reason in UNDECIDED_ATTACK else "failed" if reason is Reason.NO_LEAK else "succeeded"


def is_perturbed(ref: ImageRef) -> bool:
    """Whether Stage I put noise or a trigger on the image: its name says so."""
    return ref.name is not None and ref.name.endswith(("+noise", "+trigger"))


def tally(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, sorted by name."""
    return {str(name): number for name, number in sorted(Counter(names).items())}


def spread(lengths: Sequence[int]) -> dict[str, Any]:
    """Mean and histogram of some numbers of turns; the mean of none is `None`."""
    histogram = {str(length): number for length, number in sorted(Counter(lengths).items())}
    return {"mean": sum(lengths) / len(lengths) if lengths else None, "histogram": histogram}
