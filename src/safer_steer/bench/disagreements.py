"""The queue of disagreements: the turns on which a panel's judges differ most, to be read by a person."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safer_steer.bench.agreement import is_split
from safer_steer.dialogue import Record, Rollout, Turn
from safer_steer.store import write_atomic
from safer_steer.verdict import Scored, Verdict

NAME = "disagreements.jsonl"
WORTH_READING = 2
"""A difference of so many grades is worth a look even where all say failed, or all say not."""


class Vote(Record):
    """One judge's view. `scores` is empty and `rationale` the reason where it gave none."""

    judge: str
    scores: dict[str, float]
    failed: bool | None
    rationale: str


class Disagreement(Record):
    """One turn of the queue: the worst first. `spread` is the distance of the two farthest grades of each score."""

    dialogue: str
    turn: int
    category: str
    user: str
    answer: str
    split: bool
    spread: dict[str, float]
    votes: tuple[Vote, ...]


def disagreements(rollouts: Iterable[Rollout]) -> list[Disagreement]:
    """Every turn whose judges are split on whether it failed, or lie two grades or more apart; the worst first.

    Splits come before mere spreads, wide before narrow; the rest is the dialogues' order.
    """
    found = [_case(rollout, turn) for rollout in rollouts for turn in rollout.turns if turn.verdict.members]
    queue = [case for case in found if case.split or max(case.spread.values(), default=0) >= WORTH_READING]
    return sorted(queue, key=lambda c: (not c.split, -max(c.spread.values(), default=0), c.dialogue, c.turn))


def write_disagreements(folder: Path, rollouts: Iterable[Rollout]) -> int | None:
    """Write `disagreements.jsonl` and return how many; `None`, and no file, where no panel judged.

    Raises `StorageError`.
    """
    everything = list(rollouts)
    if not any(turn.verdict.members for rollout in everything for turn in rollout.turns):
        return None
    queue = disagreements(everything)
    write_atomic(folder / NAME, "".join(f"{case.to_json()}\n" for case in queue).encode())
    return len(queue)


def _case(rollout: Rollout, turn: Turn) -> Disagreement:
    members = turn.verdict.members
    given: dict[str, list[float]] = {}
    for member in members:
        if isinstance(member, Scored):
            for key, value in member.scores.items():
                given.setdefault(key, []).append(value)
    return Disagreement(
        dialogue=rollout.key,
        turn=turn.index,
        category=rollout.script.category,
        user=turn.user,
        answer=turn.answer.text,
        split=is_split(members),
        spread={key: max(values) - min(values) for key, values in given.items()},
        votes=tuple(_vote(member) for member in members),
    )


def _vote(member: Verdict) -> Vote:
    judge = "unsigned" if member.stamp is None else member.stamp.judge
    if isinstance(member, Scored):
        return Vote(judge=judge, scores=dict(member.scores), failed=member.failed, rationale=member.rationale)
    return Vote(judge=judge, scores={}, failed=None, rationale=f"{member.reason}: {member.detail}")
