"""Rewards as pure functions: turn reward, TCSR, returns, advantages. No torch, no I/O.

The worked example of the method, α = 0.3:

>>> [round(r, 5) for r in tcsr([1.0, 0.8, 0.2, 0.9])]
[1.0, 0.87, 0.52667, 0.5675]
>>> round(trajectory_return([1.0, 0.8, 0.2, 0.9]), 5)
2.96417
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Annotated

from pydantic import Field, model_validator

from safer_steer.dialogue import Record

RUBRIC_LOW, RUBRIC_HIGH = 1, 10


class RewardWeights(Record):
    """Weights of the tutor's three scores; they sum to 1 (0.4 / 0.4 / 0.2 in the reference code)."""

    safety: Annotated[float, Field(ge=0)] = 0.4
    usefulness: Annotated[float, Field(ge=0)] = 0.4
    faithfulness: Annotated[float, Field(ge=0)] = 0.2

    @model_validator(mode="after")
    def _sum_to_one(self) -> RewardWeights:
        total = self.safety + self.usefulness + self.faithfulness
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the reward weights sum to {total}, not to 1")
        return self


def locked_usefulness(safety: int, usefulness: int) -> int:
    """The rubric's lock: a breach earns no usefulness, whatever it explained.

    Safety ≤ 4 → 1; 6 or 8 → 8; 10 → 10. At 5 (over-refusal) and the unnamed levels the tutor's own score stands.

    >>> [locked_usefulness(s, 9) for s in (1, 4, 5, 6, 8, 10)]
    [1, 1, 9, 8, 8, 10]
    """
    if safety <= 4:
        return 1
    if safety in (6, 8):
        return 8
    return 10 if safety == 10 else usefulness


def turn_reward(scores: Mapping[str, float], weights: RewardWeights | None = None) -> float:
    """`r_t = Norm(w_safe·s_safe + w_use·s_use + w_faith·s_faith)` in [0, 1]; Norm maps 1…10 onto 0…1 linearly.

    Raises `ValueError` for a missing score or one outside 1…10: a missing score is never a number.

    >>> turn_reward({"safety": 10, "usefulness": 10, "faithfulness": 10})
    1.0
    >>> turn_reward({"safety": 1, "usefulness": 1, "faithfulness": 1})
    0.0
    """
    weighting = RewardWeights() if weights is None else weights
    total = 0.0
    for key, weight in weighting.model_dump().items():
        if key not in scores or not RUBRIC_LOW <= scores[key] <= RUBRIC_HIGH:
            raise ValueError(f"{key}={scores.get(key)!r} is not a score in {RUBRIC_LOW}..{RUBRIC_HIGH}")
        total += weight * scores[key]
    return min(1.0, max(0.0, (total - RUBRIC_LOW) / (RUBRIC_HIGH - RUBRIC_LOW)))


def tcsr(turn_rewards: Sequence[float], alpha: float = 0.3) -> list[float]:
    """TCSR: `r̃_t = α·min_{j≤t} r_j + (1−α)·(1/t)·Σ_{j≤t} r_j`, one value per turn.

    Raises `ValueError` unless `0 ≤ α ≤ 1`.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha={alpha} is outside 0..1")
    lows = accumulate(turn_rewards, min)
    sums = accumulate(turn_rewards)
    return [alpha * low + (1 - alpha) * total / t for t, (low, total) in enumerate(zip(lows, sums, strict=True), 1)]


def trajectory_return(turn_rewards: Sequence[float], alpha: float = 0.3) -> float:
    """The paper's return `R = Σ_t r̃_t`. It grows with T; see `Credit` for the alternatives."""
    return sum(tcsr(turn_rewards, alpha))


class Shaping(StrEnum):
    """Turn rewards to shaped rewards: the paper's TCSR, or none (its ablation)."""

    TCSR = "tcsr"
    NONE = "none"


class Credit(StrEnum):
    """What a turn's tokens are credited with.

    `SUM` is the paper's `R = Σ_t r̃_t` for every turn; `MEAN` is `R / T`, which does not pay for length;
    `TURN` gives each turn its own reward-to-go `Σ_{j≥t} γ^{j−t}·r̃_j`, where γ is the discount (1: undiscounted).
    """

    SUM = "sum"
    MEAN = "mean"
    TURN = "turn"


def shaped_rewards(turn_rewards: Sequence[float], shaping: Shaping, alpha: float = 0.3) -> list[float]:
    """`r̃` under TCSR, `r` itself without."""
    return tcsr(turn_rewards, alpha) if shaping is Shaping.TCSR else list(turn_rewards)


def turn_returns(shaped: Sequence[float], credit: Credit, discount: float = 1.0) -> list[float]:
    """The return each turn's tokens are credited with, one per turn. `discount` is γ of `Credit.TURN` alone.

    Raises `ValueError` unless `0 ≤ discount ≤ 1`.

    >>> [turn_returns([1.0, 0.5], credit) for credit in Credit]
    [[1.5, 1.5], [0.75, 0.75], [1.5, 0.5]]
    >>> turn_returns([1.0, 0.5, 0.4], Credit.TURN, discount=0.5)
    [1.35, 0.7, 0.4]
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount={discount} is outside 0..1")
    if credit is Credit.TURN:
        return list(accumulate(reversed(shaped), lambda later, reward: reward + discount * later))[::-1]
    total = sum(shaped)
    return [total if credit is Credit.SUM else total / len(shaped)] * len(shaped)


def group_advantages(
    returns: Sequence[Sequence[float]], credit: Credit, *, divide_by_std: bool = False
) -> list[list[float]]:
    """`A^(k) = R^(k) − mean_k R` over the K rollouts of one seed; `returns` are `turn_returns` under `credit`.

    Under `SUM` and `MEAN` a dialogue has one return, and is compared with all K, however many turns each has. Under
    `TURN` each turn has its own: turn t is compared among the dialogues that have it. The paper does not divide by
    the standard deviation; `divide_by_std` does, by the population's of the same comparison (one without spread keeps
    0).

    >>> group_advantages([[1.0, 1.0], [2.0, 2.0], [6.0]], Credit.SUM)
    [[-2.0, -2.0], [-1.0, -1.0], [3.0]]
    >>> group_advantages([[1.0, 1.0], [2.0, 2.0], [6.0]], Credit.TURN)
    [[-2.0, -0.5], [-1.0, 0.5], [3.0]]
    """
    if credit is not Credit.TURN:
        scalars = _compared([row[0] for row in returns], divide_by_std)
        return [[value] * len(row) for row, value in zip(returns, scalars, strict=True)]
    found: list[list[float]] = [[] for _ in returns]
    for t in range(max(map(len, returns), default=0)):
        having = [k for k, row in enumerate(returns) if len(row) > t]
        for k, value in zip(having, _compared([returns[k][t] for k in having], divide_by_std), strict=True):
            found[k].append(value)
    return found


def _compared(values: Sequence[float], divide_by_std: bool) -> list[float]:
    """Each value less the mean of all."""
    if not values:
        return []
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    scale = spread if divide_by_std and spread > 1e-8 else 1.0
    return [(value - mean) / scale for value in values]


def has_spread(returns: Sequence[Sequence[float]], credit: Credit, tolerance: float = 1e-8) -> bool:
    """Whether a group says anything: some returns that are compared differ by more than `tolerance`."""
    return any(abs(value) > tolerance for row in group_advantages(returns, credit) for value in row)


class Normalise(StrEnum):
    """How a batch's token losses become one number.

    With D dialogues of n_i answer tokens: `PAPER` sums each dialogue's tokens and averages over dialogues, as in the
    paper's formula; `DAPO` divides the same sum by all Σ n_i tokens, so that its size does not grow with length;
    `DR_GRPO` divides it by the constant D · (longest answer allowed) · (most turns); `GRPO` averages each dialogue
    over its own tokens first, so that a token of a short dialogue weighs more. The first three agree in direction.
    """

    PAPER = "paper"
    GRPO = "grpo"
    DAPO = "dapo"
    DR_GRPO = "dr_grpo"


def dialogue_weights(lengths: Sequence[int], normalise: Normalise, most_tokens: int) -> list[float]:
    """What each token of a dialogue counts, one weight per dialogue of `lengths` answer tokens.

    `most_tokens` is the most that a dialogue may have, for `DR_GRPO`.

    >>> [dialogue_weights([1, 3], kind, 10) for kind in Normalise]
    [[0.5, 0.5], [0.5, 0.16666666666666666], [0.25, 0.25], [0.05, 0.05]]
    """
    match normalise:
        case Normalise.PAPER:
            return [1 / len(lengths)] * len(lengths)
        case Normalise.GRPO:
            return [1 / (len(lengths) * length) for length in lengths]
        case Normalise.DAPO:
            return [1 / sum(lengths)] * len(lengths)
        case Normalise.DR_GRPO:
            return [1 / (len(lengths) * most_tokens)] * len(lengths)
