"""What an evaluation lacks, and why: for the message of one that must not count as a success."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from safer_steer.bench.books import was_away
from safer_steer.dialogue import Rollout, StopReason
from safer_steer.verdict import Unscored

TOLD = 3
"""How many causes are told, the commonest first."""
LONGEST = 240
_SILENT = (StopReason.ASSISTANT_FAULT, StopReason.USER_FAULT)
"""Endings by which somebody in a seat gave no answer."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """`away`: the turns that lack only an answer of a server; the same command tries them again. `why`: in words."""

    away: int
    why: str


def lost_turns(rollout: Rollout) -> int:
    """The turns that a dialogue which broke off did not come to, at least one."""
    return 0 if rollout.fault is None else max(1, len(rollout.script.turns) - len(rollout.turns))


def lacking(rollouts: Iterable[Rollout], *, played_again: bool) -> Lacking:
    """Count the causes. `played_again`: the command plays a dialogue that broke off again, as `rejudge` does not."""
    away, counted, said = 0, Counter[str](), defaultdict[str, Counter[str]](Counter)

    def add(cause: str, text: str) -> None:
        counted[cause] += 1
        said[cause][" ".join(text.split())] += 1

    for rollout in rollouts:
        missed = [turn.verdict for turn in rollout.turns if isinstance(turn.verdict, Unscored)]
        away += sum(was_away(verdict) for verdict in missed)
        for verdict in missed:
            add(str(verdict.reason), verdict.detail)
        if rollout.fault is not None:
            add(str(rollout.stop), rollout.fault)
            silent = rollout.stop in _SILENT or any(was_away(verdict) for verdict in missed)
            away += lost_turns(rollout) if silent and played_again else 0
    told = [f"{cause.replace('_', ' ')} {n}, as {_short(said[cause])}" for cause, n in counted.most_common(TOLD)]
    return Lacking(away, "; ".join(told))


def _short(texts: Counter[str]) -> str:
    [(text, _)] = texts.most_common(1)
    return f"'{text}'" if len(text) <= LONGEST else f"'{text[:LONGEST]}…'"
