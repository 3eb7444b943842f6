"""The queue of disagreements: the turns on which a panel's judges differ most, to be read by a person."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from safer_steer.bench.agreement import is_split
from safer_steer.dialogue import Record, Rollout, Turn
from safer_steer.store import disk_errors, write_stream
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
    return sorted((case for rollout in rollouts for case in _worth_reading(rollout)), key=_rank)


def write_disagreements(folder: Path, rollouts: Iterable[Rollout]) -> int | None:
    """Write `disagreements.jsonl` and return how many; `None`, and no file, where no panel judged.

    One dialogue is in memory at a time: the cases wait for their order on disk. Raises `StorageError`.
    """
    judged_by_panel = False
    places: list[tuple[_Rank, int, int]] = []
    path = folder / NAME
    with disk_errors(path), tempfile.TemporaryFile(dir=folder) as unsorted:
        for rollout in rollouts:
            judged_by_panel = judged_by_panel or any(turn.verdict.members for turn in rollout.turns)
            for case in _worth_reading(rollout):
                line = f"{case.to_json()}\n".encode()
                places.append((_rank(case), unsorted.tell(), len(line)))
                unsorted.write(line)
        if not judged_by_panel:
            return None

        def lines() -> Iterator[bytes]:
            for _, start, length in sorted(places):
                unsorted.seek(start)
                yield unsorted.read(length)

        write_stream(path, lines())
    return len(places)


_Rank = tuple[bool, float, str, int]


def _rank(case: Disagreement) -> _Rank:
    return not case.split, -max(case.spread.values(), default=0), case.dialogue, case.turn


def _worth_reading(rollout: Rollout) -> Iterator[Disagreement]:
    for turn in rollout.turns:
        if turn.verdict.members:
            case = _case(rollout, turn)
            if case.split or max(case.spread.values(), default=0) >= WORTH_READING:
                yield case


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
