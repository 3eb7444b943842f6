"""What a run's data consists of: sizes, turns, kinds, strategies, categories, success rates. As numbers and as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from safer_steer.construct.summary import is_perturbed, spread
from safer_steer.dialogue import Record, Script
from safer_steer.errors import StorageError
from safer_steer.exports.samples import Part, present, read
from safer_steer.run_folder import RunFolder

WIDTH = 30
"""Characters of the longest bar in the text."""


class PartStats(Record):
    """One split. `turns` counts dialogues by their number of turns; `images` distinct ones."""

    dialogues: int
    turns: dict[int, int]
    mean_turns: float
    kinds: dict[str, int]
    categories: dict[str, int]
    strategies: dict[str, int]
    images: int
    perturbed: int
    mean_safety: float | None = None

    @property
    def range(self) -> tuple[int, int]:
        """The fewest and the most turns."""
        return min(self.turns), max(self.turns)


class Success(Record):
    """How often the attacks of a strategy succeeded against the target. `undecided`: nobody could judge them."""

    played: int
    undecided: int = 0
    succeeded: int

    @property
    def rate(self) -> float | None:
        return self.succeeded / self.decided if self.decided else None

    @property
    def decided(self) -> int:
        return self.played - self.undecided


class Stats(Record):
    """A run's data. `attacks` by strategy; `kept` of `played` SFT dialogues passed both thresholds; `left_out` of
    Stage I and `dropped` of Stage II by reason."""

    parts: dict[str, PartStats]
    attacks: dict[str, Success]
    played: int
    kept: int
    left_out: dict[str, int]
    dropped: dict[str, int]
    crossing: int

    @property
    def attacked(self) -> Success:
        """All attacks together."""
        everything = self.attacks.values()
        return Success(
            played=sum(a.played for a in everything),
            undecided=sum(a.undecided for a in everything),
            succeeded=sum(a.succeeded for a in everything),
        )


def stats_of(run: RunFolder) -> Stats:
    """Read a run's splits and counts, a record at a time; raises `StorageError` when Stage II is not finished."""
    construction, bootstrap = run.finished("construct"), run.finished("bootstrap")
    if bootstrap is None:
        hint = "run `safer-steer bootstrap` there first"
        raise StorageError("the stage 'bootstrap' is not finished", where=run.root, hint=hint)
    built: Mapping[str, Any] = {} if construction is None else construction
    attacks = built.get("attacks", {}).get("by_strategy", {})
    return Stats(
        parts={str(part): _part(run, part) for part in present(run)},
        attacks={name: Success.from_json(json.dumps(counts)) for name, counts in attacks.items()},
        played=bootstrap["played"],
        kept=bootstrap["kept"],
        left_out=built.get("left_out", {}),
        dropped=bootstrap["dropped"],
        crossing=bootstrap.get("contamination", 0),
    )


def _part(run: RunFolder, part: Part) -> PartStats:
    turns: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    strategies: Counter[str] = Counter()
    images: dict[str, bool] = {}
    safety, scored = 0.0, 0
    for sample in read(run, part):
        script: Script = sample.script
        turns[len(sample.asks)] += 1
        kinds[str(script.kind)] += 1
        categories[script.category] += 1
        if script.strategy is not None:
            strategies[script.strategy] += 1
        images.update({ref.sha256: is_perturbed(ref) for ref in sample.images})
        safety, scored = safety + sum(sample.safety), scored + len(sample.safety)
    lengths = [length for length, number in turns.items() for _ in range(number)]
    return PartStats(
        dialogues=turns.total(),
        turns=dict(sorted(turns.items())),
        mean_turns=spread(lengths)["mean"],
        kinds=dict(sorted(kinds.items())),
        categories=dict(sorted(categories.items())),
        strategies=dict(sorted(strategies.items())),
        images=len(images),
        perturbed=sum(images.values()),
        mean_safety=safety / scored if scored else None,
    )


def text_of(stats: Stats) -> str:
    """The same for a terminal."""
    return "\n".join(_lines(stats)) + "\n"


def _lines(stats: Stats) -> Iterator[str]:
    kinds = sorted({kind for part in stats.parts.values() for kind in part.kinds})
    yield "split   dialogues  turns    mean  " + "".join(f"{kind:>12}" for kind in kinds) + "    images  perturbed"
    for name, part in stats.parts.items():
        low, high = part.range
        row = f"{name:<7} {part.dialogues:>9}  {f'{low}–{high}':<7} {part.mean_turns:>5.2f}  "
        counts = "".join(f"{part.kinds.get(kind, 0):>12}" for kind in kinds)
        yield f"{row}{counts}  {part.images:>8}  {part.perturbed:>9}"
    yield from _bars("turns", _summed(stats, "turns"))
    yield from _bars("categories", _summed(stats, "categories"))
    yield from _bars("strategies", _summed(stats, "strategies"))
    if stats.attacks:
        yield "\nattacks that succeeded against the target"
        for name, success in [*stats.attacks.items(), ("all", stats.attacked)]:
            rate = "no attack" if success.rate is None else f"{success.rate:6.1%}"
            yield f"  {name:<24} {rate}  {success.succeeded} of {success.decided}"
    share = f"{stats.kept / stats.played:.1%}" if stats.played else "none"
    yield f"\nkept of the dialogues played: {share} ({stats.kept} of {stats.played})"
    for title, reasons in (("left out of Stage I", stats.left_out), ("dropped in Stage II", stats.dropped)):
        told = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        yield f"{title}: {told or 'nothing'}"
    yield f"dialogues or seeds in training and benchmark both: {stats.crossing}"


def _summed(stats: Stats, field: str) -> dict[str, int]:
    total: Counter[Any] = Counter()
    for part in stats.parts.values():
        total.update(getattr(part, field))
    return {str(name): total[name] for name in sorted(total)}


def _bars(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    if not counts:
        return
    most = max(counts.values())
    yield f"\n{title}"
    for name, number in counts.items():
        yield f"  {name:<24} {'█' * max(1, round(WIDTH * number / most)):<{WIDTH}} {number}"
