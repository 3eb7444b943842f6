"""When a server was away: what it left undone is tried again on resume; most of the work undone is no result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safer_steer.dialogue import Rollout, StopReason
from safer_steer.errors import StageError
from safer_steer.verdict import Unscored, UnscoredReason

MAX_SHARE = 0.5
"""With more than this share of its work undone for want of an answer a stage stops instead of finishing."""


def interruption(rollout: Rollout) -> str | None:
    """What kept the dialogue from saying anything about its script: an actor failed, or a judge was away; or `None`."""
    if rollout.stop in (StopReason.ASSISTANT_FAULT, StopReason.USER_FAULT):
        return f"{rollout.stop}: {rollout.fault}"
    for turn in rollout.turns:
        if isinstance(turn.verdict, Unscored) and turn.verdict.reason is UnscoredReason.JUDGE_UNREACHABLE:
            return f"{turn.verdict.reason}: {turn.verdict.detail}"
    return None


def rollout_key(rollout: Rollout) -> str:
    return rollout.key


def interrupted(rollout: Rollout) -> bool:
    return interruption(rollout) is not None


def refuse_outage(stage: str, what: str, undone: Sequence[str], total: int) -> None:
    """Raise `StageError` when more than `MAX_SHARE` of the work was left undone; `undone` says why each."""
    if len(undone) > MAX_SHARE * total:
        problem = f"{len(undone)} of {total} {what} got no answer, such as: {undone[0]}"
        hint = "see that every server answers, then run the same command again: it tries those again"
        raise StageError(problem, where=stage, hint=hint)


def refuse_interrupted(stage: str, rollouts: Iterable[Rollout]) -> None:
    """`refuse_outage` for played dialogues."""
    what = [interruption(rollout) for rollout in rollouts]
    undone = [reason for reason in what if reason is not None]
    refuse_outage(stage, "dialogues", undone, len(what))
