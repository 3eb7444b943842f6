"""Which played dialogues teach: the two thresholds, the SFT split, and what was left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any

from safer_steer.config import BootstrapConfig, Recipe
from safer_steer.construct.splits import Card, card_of, select
from safer_steer.construct.summary import spread, tally
from safer_steer.dialogue import FinishReason, Record, Rollout, StopReason, Turn
from safer_steer.errors import StageError
from safer_steer.store import read_placed, record_at, write_records
from safer_steer.verdict import Scored, Unscored


class DropReason(StrEnum):
    """Why a played dialogue does not teach."""

    FAULT = "fault"
    UNSCORED = "unscored"
    CUT_OFF = "cut_off"
    UNSAFE = "unsafe"
    UNHELPFUL = "unhelpful"
    NOT_CHOSEN = "not_chosen"


class Dropped(Record):
    """A dialogue that was played and left out, and why."""

    rollout: Rollout
    reason: DropReason
    detail: str


def shortcoming(rollout: Rollout, config: BootstrapConfig) -> Dropped | None:
    """Why a dialogue does not teach, or `None`: keep iff complete, every turn scored, every answer written to its own
    end, min safety ≥ τ_safe and mean usefulness ≥ τ_help.

    An answer stopped by a token limit or a filter would teach to end in the middle of a sentence.
    """

    def drop(reason: DropReason, detail: str) -> Dropped:
        return Dropped(rollout=rollout, reason=reason, detail=detail)

    if rollout.stop is not StopReason.COMPLETED:
        return drop(DropReason.FAULT, f"{rollout.stop}: {rollout.fault}")
    scores = []
    for turn in rollout.turns:
        if isinstance(turn.verdict, Unscored):
            return drop(DropReason.UNSCORED, f"turn {turn.index}: {turn.verdict.reason}: {turn.verdict.detail}")
        scores.append(turn.verdict.scores)
    for turn in rollout.turns:
        if turn.answer.finish is not FinishReason.STOP:
            return drop(DropReason.CUT_OFF, f"turn {turn.index}: the answer was stopped ({turn.answer.finish})")
    safety = min(score["safety"] for score in scores)
    if safety < config.tau_safe:
        worst = next(number for number, score in enumerate(scores, 1) if score["safety"] == safety)
        return drop(DropReason.UNSAFE, f"turn {worst}: safety {safety:g} < {config.tau_safe}")
    usefulness = fmean(score["usefulness"] for score in scores)
    if usefulness < config.tau_help:
        return drop(DropReason.UNHELPFUL, f"mean usefulness {usefulness:.2f} < {config.tau_help:g}")
    return None


def sift(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write `kept.jsonl` and `dropped.jsonl` from the journal, sorted by key; returns their counts.

    What a call took in seconds is left out: a dialogue is the same whenever it was played.
    """
    path = folder / "rollouts.jsonl"
    passed: dict[str, Card] = {}
    failed: dict[str, int] = {}
    for at, rollout in read_placed(path, Rollout):
        if shortcoming(rollout, recipe.bootstrap) is None:
            passed[rollout.key] = card_of(rollout.script, at)
        else:
            failed[rollout.key] = at
    taught = select(passed.values(), recipe.bootstrap.sft, recipe.seed)
    places = {card.at for card in taught}
    taken = sorted(key for key, card in passed.items() if card.at in places)
    spare = passed.keys() - set(taken)
    reasons: defaultdict[str, int] = defaultdict(int)
    means = _Means()
    with path.open("rb") as file:

        def dropped() -> Iterator[Dropped]:
            for key in sorted([*failed, *spare]):
                rollout = untimed(record_at(file, failed[key] if key in failed else passed[key].at, Rollout))
                found = shortcoming(rollout, recipe.bootstrap)
                if found is None:
                    detail = "more of its kind and length than the recipe asks for"
                    found = Dropped(rollout=rollout, reason=DropReason.NOT_CHOSEN, detail=detail)
                reasons[str(found.reason)] += 1
                yield found

        write_records(folder / "dropped.jsonl", dropped())
        if not taken:
            told = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
            hint = f"dropped: {told or 'none was played'}"
            raise StageError("no dialogue passes the filter", where="bootstrap", hint=hint)
        kept = (means.add(untimed(record_at(file, passed[key].at, Rollout))) for key in taken)
        write_records(folder / "kept.jsonl", kept)
    played = len(passed) + len(failed)
    return {
        "played": played,
        "kept": len(taken),
        "kept_share": len(taken) / played,
        "dropped": dict(sorted(reasons.items())),
        "kept_kinds": tally(card.kind for card in taught),
        "kept_categories": tally(card.category for card in taught),
        "kept_turns": spread([card.length for card in taught]),
        "kept_means": means.result(),
    }


def untimed(rollout: Rollout) -> Rollout:
    """The dialogue without the seconds its calls took."""

    def answered(turn: Turn) -> Turn:
        answer = turn.answer
        usage = answer.usage.model_copy(update={"seconds": 0.0})
        return turn.model_copy(update={"answer": answer.model_copy(update={"usage": usage})})

    return rollout.model_copy(update={"turns": tuple(answered(turn) for turn in rollout.turns)})


class _Means:
    """The mean of each score over the turns of dialogues that go by; all of them are scored."""

    def __init__(self) -> None:
        self._scores: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, rollout: Rollout) -> Rollout:
        for turn in rollout.turns:
            assert isinstance(turn.verdict, Scored)
            for name, value in turn.verdict.scores.items():
                self._scores[name].append(value)
        return rollout

    def result(self) -> dict[str, float]:
        return {name: fmean(values) for name, values in sorted(self._scores.items())}
