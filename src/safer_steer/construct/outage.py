"""When a server was away: what it left undone is tried again on resume; with too much undone a stage does not end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safer_steer.dialogue import Rollout, StopReason
from safer_steer.errors import Incomplete
from safer_steer.verdict import Unscored, UnscoredReason


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


def refuse_outage(stage: str, what: str, undone: Sequence[str], total: int, share: float) -> None:
    """Raise `Incomplete` when more than this share of the work was left undone; `undone` says why each."""
    if len(undone) > share * total:
        problem = f"incomplete: {len(undone)} of {total} {what} got no answer, such as: {undone[0]}"
        hint = (
            "see that every server answers, then run the same command again: it tries only those; "
            f"max_undone_share, now {share:g}, is what may be left out"
        )
        raise Incomplete(problem, where=stage, hint=hint)


def refuse_interrupted(stage: str, rollouts: Iterable[Rollout], share: float) -> int:
    """`refuse_outage` for played dialogues; returns how many were left undone."""
    undone, total = [], 0
    for rollout in rollouts:
        total += 1
        reason = interruption(rollout)
        if reason is not None:
            undone.append(reason)
    refuse_outage(stage, "dialogues", undone, total, share)
    return len(undone)
