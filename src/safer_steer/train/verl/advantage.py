"""verl's advantage estimators of this method: turn rewards on tokens in, one advantage a token out.

verl hands an estimator the rewards by token, the mask of the answers and the groups, and nothing else. A turn is a
run of the mask, its reward stands on the run's last token, and the rest is `safer_steer.reward`, as on one machine.

    mask    0 1 1 0 1        rewards  0 0 .9 0 .4   ->   two turns, r = (.9, .4)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safer_steer.reward import Credit, Shaping, group_advantages, shaped_rewards, turn_returns

PREFIX = "safer_steer"


def estimator_name(credit: Credit) -> str:
    """What an estimator is called in `algorithm.adv_estimator`.

    >>> [estimator_name(credit) for credit in Credit]
    ['safer_steer_sum', 'safer_steer_mean', 'safer_steer_turn']
    """
    return f"{PREFIX}_{credit}"


def turn_spans(mask: Sequence[int]) -> list[tuple[int, int]]:
    """The answers as (start, stop): the runs of ones.

    >>> turn_spans([0, 1, 1, 0, 1])
    [(1, 3), (4, 5)]
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for place, mine in enumerate([*mask, 0]):
        if mine and start is None:
            start = place
        elif not mine and start is not None:
            spans.append((start, place))
            start = None
    return spans


def advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    *,
    credit: Credit,
    shaping: Shaping,
    alpha: float,
    discount: float,
    divide_by_std: bool,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns by token, both (B, L) and 0 where the mask is.

    `token_level_rewards` (B, L) carry each turn's reward on its last token, `index` names each row's group. A row
    without a turn (verl's padding) gets zeros and belongs to no comparison.
    """
    spans = [turn_spans(row) for row in response_mask.int().tolist()]
    groups: defaultdict[Any, list[int]] = defaultdict(list)
    for row, name in enumerate(index):
        if spans[row]:
            groups[name].append(row)
    gained = torch.zeros_like(token_level_rewards, dtype=torch.float32)
    returned = torch.zeros_like(gained)
    for rows in groups.values():
        rewards = [[float(token_level_rewards[row, stop - 1]) for _, stop in spans[row]] for row in rows]
        returns = [turn_returns(shaped_rewards(turns, shaping, alpha), credit, discount) for turns in rewards]
        compared = group_advantages(returns, credit, divide_by_std=divide_by_std)
        for row, turns, credits in zip(rows, returns, compared, strict=True):
            for (start, stop), value, advantage in zip(spans[row], turns, credits, strict=True):
                gained[row, start:stop] = advantage
                returned[row, start:stop] = value
    return gained, returned


def estimator(credit: Credit) -> Any:
    """The estimator with that credit, reading shaping, α, the discount and the division from `config.safer_steer`."""

    def estimate(
        token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any, **_: Any
    ) -> tuple[Tensor, Tensor]:
        settings = config["safer_steer"]
        return advantages(
            token_level_rewards,
            response_mask,
            index,
            credit=credit,
            shaping=Shaping(settings["shaping"]),
            alpha=float(settings["alpha"]),
            discount=float(settings["discount"]),
            divide_by_std=bool(settings["divide_by_std"]),
        )

    estimate.__name__ = estimator_name(credit)
    return estimate
