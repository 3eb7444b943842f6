"""Rollouts to trajectories: tokens by concatenation, a loss mask, and one advantage per turn.

A worked example. Two samples of a one-turn script, scored 10/10/10 and 1/1/1 by the tutor, so r = 1 and r = 0:

    context (5, 6), response (7, 2)  ->  ids (5, 6, 7, 2), mask (F, F, T, T), spans ((2, 4),), advantage +0.5
    context (5, 6), response (8, 2)  ->  ids (5, 6, 8, 2), mask (F, F, T, T), spans ((2, 4),), advantage -0.5

Over two turns the second context follows the first response, `(5, 6, 7, 2, 9, 6, 4, 2)`, with spans (2, 4), (6, 8):
the end token 2 is the assistant's own and is trained; what stands between the answers never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from safer_steer.config import GrpoConfig
from safer_steer.dialogue import AnswerState, ImageRef, Rollout, StopReason, TokenTrace, Turn
from safer_steer.reward import group_advantages, has_spread, shaped_rewards, turn_returns, turn_reward
from safer_steer.verdict import Scored


class DropReason(StrEnum):
    """Why a group of rollouts teaches nothing. Each is counted; none becomes a number."""

    UNSCORED = "unscored"
    FAULT = "fault"
    TOO_LONG = "too_long"
    ZERO_SPREAD = "zero_spread"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A group left out, and why."""

    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One dialogue as the student wrote it, L tokens and T turns.

    `ids`, `mask`, `logprobs` have length L: the mask is True on the assistant's tokens (end tokens included), and
    `logprobs` are the sampling policy's there, 0 elsewhere. `spans` are the T answers as (start, stop) in `ids`;
    `rewards` and `advantages` are one per turn. `images` fill the image places of `ids`, in order.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    images: tuple[ImageRef, ...]

    @property
    def token_advantages(self) -> tuple[float, ...]:
        """Each token's advantage: its turn's on the answers, 0 elsewhere."""
        values = [0.0] * len(self.ids)
        for (start, stop), advantage in zip(self.spans, self.advantages, strict=True):
            values[start:stop] = [advantage] * (stop - start)
        return tuple(values)


@dataclass(frozen=True, slots=True)
class Group:
    """The K trajectories of one script, compared with each other. `returns` are `R^(k)_t`, one row a trajectory."""

    script_id: str
    trajectories: tuple[Trajectory, ...]
    returns: tuple[tuple[float, ...], ...]


def build_group(rollouts: Sequence[Rollout], config: GrpoConfig) -> Group | Dropped:
    """The K rollouts of one script as a group, or why not.

    A turn that nobody scored or a dialogue that broke off makes the whole group `Dropped`. An answer without
    judgeable text earns `config.format_failure_reward`. Raises ValueError when a turn has no token trace.
    """
    reasons = [reason for rollout in rollouts if (reason := shortcoming(rollout)) is not None]
    if reasons:
        return reasons[0]
    rewards = [turn_rewards(rollout, config) for rollout in rollouts]
    shaped = [shaped_rewards(row, config.shaping, config.alpha) for row in rewards]
    returns = [turn_returns(row, config.credit, config.discount) for row in shaped]
    if not has_spread(returns, config.credit):
        return Dropped(DropReason.ZERO_SPREAD, f"all {len(rollouts)} samples of {rollouts[0].script.id} did equally")
    advantages = group_advantages(returns, config.credit, divide_by_std=config.divide_by_std)
    rows = zip(rollouts, rewards, advantages, strict=True)
    trajectories = tuple(trajectory(rollout, row, credit) for rollout, row, credit in rows)
    longest = max(len(item.ids) for item in trajectories)
    if longest > config.max_length:
        return Dropped(DropReason.TOO_LONG, f"{longest} tokens are more than max_length={config.max_length}")
    return Group(rollouts[0].script.id, trajectories, tuple(tuple(row) for row in returns))


def turn_rewards(rollout: Rollout, config: GrpoConfig) -> list[float]:
    """`r_t` of every turn, of a rollout that has a verdict (or the named policy) for each."""
    return [_turn_reward(turn, config) for turn in rollout.turns]


def trajectory(rollout: Rollout, rewards: Sequence[float], advantages: Sequence[float]) -> Trajectory:
    """The tokens of a rollout, concatenated as they were read and written, with its turns' rewards and advantages."""
    ids: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    spans = []
    for turn in rollout.turns:
        trace = _trace(rollout, turn)
        ids += trace.context + trace.response
        mask += [False] * len(trace.context) + [True] * len(trace.response)
        logprobs += [0.0] * len(trace.context) + list(trace.logprobs)
        spans.append((len(ids) - len(trace.response), len(ids)))
    return Trajectory(
        ids=tuple(ids),
        mask=tuple(mask),
        logprobs=tuple(logprobs),
        spans=tuple(spans),
        rewards=tuple(rewards),
        advantages=tuple(advantages),
        images=rollout.script.images_until(len(rollout.turns)),
    )


def shortcoming(rollout: Rollout) -> Dropped | None:
    """What keeps a rollout from being compared, or `None`. A judge's silence comes before the fault it led to."""
    for turn in rollout.turns:
        if not isinstance(turn.verdict, Scored) and turn.answer.state is AnswerState.OK:
            detail = f"{rollout.key} turn {turn.index}: {turn.verdict.reason}: {turn.verdict.detail}"
            return Dropped(DropReason.UNSCORED, detail)
    if rollout.stop not in (StopReason.COMPLETED, StopReason.CRITERION, StopReason.FORMAT_FAILURE):
        return Dropped(DropReason.FAULT, f"{rollout.key}: {rollout.stop}: {rollout.fault}")
    return None


def _turn_reward(turn: Turn, config: GrpoConfig) -> float:
    if isinstance(turn.verdict, Scored):
        return turn_reward(turn.verdict.scores, config.weights)
    if turn.answer.state is AnswerState.OK:
        raise ValueError(f"turn {turn.index} has no score: {turn.verdict.detail}")
    return config.format_failure_reward


def _trace(rollout: Rollout, turn: Turn) -> TokenTrace:
    if turn.answer.trace is None:
        raise ValueError(f"{rollout.key} turn {turn.index}: the answer carries no token trace; train a local model")
    return turn.answer.trace
