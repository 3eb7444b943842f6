"""One method, two engines, the arithmetic: what verl's estimator gets from tokens is what one machine computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safer_steer.reward import Credit, Shaping, group_advantages, shaped_rewards, turn_returns
from safer_steer.train.verl.advantage import advantages, estimator, turn_spans


def laid_out(rewards: list[list[float]], lengths: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards on the last tokens and the mask of answers with these lengths, one context token between them."""
    rows, masks = [], []
    for turns, sizes in zip(rewards, lengths, strict=True):
        row: list[float] = []
        mask: list[int] = []
        for value, size in zip(turns, sizes, strict=True):
            row += [0.0] * (size - 1) + [value, 0.0]
            mask += [1] * size + [0]
        rows.append(row[:-1])
        masks.append(mask[:-1])
    longest = max(map(len, rows))
    return (
        torch.tensor([row + [0.0] * (longest - len(row)) for row in rows]),
        torch.tensor([mask + [0] * (longest - len(mask)) for mask in masks]),
    )


def test_a_worked_example() -> None:
    """Two dialogues of two turns; the paper's sum, α = 0.3: R = 1 + .87 = 1.87 and 0 + .35 = 0.35, mean 1.11."""
    scores, mask = laid_out([[1.0, 0.8], [0.0, 1.0]], [[2, 1], [1, 3]])
    gained, returned = advantages(
        scores, mask, ["a", "a"], credit=Credit.SUM, shaping=Shaping.TCSR, alpha=0.3, discount=1.0, divide_by_std=False
    )
    assert mask.tolist() == [[1, 1, 0, 1, 0], [1, 0, 1, 1, 1]]
    assert torch.allclose(gained, torch.tensor([[0.76, 0.76, 0, 0.76, 0], [-0.76, 0, -0.76, -0.76, -0.76]]))
    assert torch.allclose(returned, torch.tensor([[1.87, 1.87, 0, 1.87, 0], [0.35, 0, 0.35, 0.35, 0.35]]))


def test_turns_keep_their_own_credit() -> None:
    scores, mask = laid_out([[1.0, 0.0], [0.0, 1.0]], [[1, 1], [1, 1]])
    gained, _ = advantages(
        scores, mask, ["a", "a"], credit=Credit.TURN, shaping=Shaping.NONE, alpha=0.3, discount=1.0, divide_by_std=False
    )
    assert gained.tolist() == [[0.0, 0.0, -0.5], [0.0, 0.0, 0.5]]


def test_padding_belongs_to_no_group() -> None:
    scores, mask = laid_out([[1.0], [0.0]], [[1], [1]])
    scores, mask = torch.cat([scores, scores[:1]]), torch.cat([mask, torch.zeros(1, 1, dtype=mask.dtype)])
    gained, _ = advantages(
        scores,
        mask,
        ["a", "a", "a"],
        credit=Credit.SUM,
        shaping=Shaping.NONE,
        alpha=0.3,
        discount=1.0,
        divide_by_std=False,
    )
    assert gained.tolist() == [[0.5], [-0.5], [0.0]]


def test_a_turn_worth_nothing_is_still_a_turn() -> None:
    assert turn_spans([1, 0, 1, 1]) == [(0, 1), (2, 4)]
    scores, mask = laid_out([[0.0, 0.0], [0.0, 1.0]], [[1, 2], [1, 2]])
    gained, _ = advantages(
        scores, mask, ["a", "a"], credit=Credit.MEAN, shaping=Shaping.NONE, alpha=0.3, discount=1.0, divide_by_std=False
    )
    assert gained.tolist() == [[-0.25, 0, -0.25, -0.25], [0.25, 0, 0.25, 0.25]]


GROUP = st.integers(1, 4).flatmap(
    lambda turns: st.lists(
        st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(1, 3)), min_size=1, max_size=turns),
        min_size=2,
        max_size=4,
    )
)


@settings(max_examples=60)
@given(
    st.lists(GROUP, min_size=1, max_size=3), st.sampled_from(Credit), st.sampled_from(Shaping), st.floats(0, 1),
    st.floats(0, 1), st.booleans(), st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_estimator_is_the_reward_module(groups, credit, shaping, alpha, discount, divide, order) -> None:
    rows = [(name, dialogue) for name, group in enumerate(groups) for dialogue in group]
    order.shuffle(rows)  # verl reorders the batch
    scores, mask = laid_out([[r for r, _ in d] for _, d in rows], [[n for _, n in d] for _, d in rows])
    config = {"safer_steer": {"shaping": str(shaping), "alpha": alpha, "discount": discount, "divide_by_std": divide}}
    gained, returned = estimator(credit)(
        token_level_rewards=scores, response_mask=mask, index=[name for name, _ in rows], config=config
    )
    for name in range(len(groups)):
        members = [row for row, (other, _) in enumerate(rows) if other == name]
        returns = [
            turn_returns(shaped_rewards([r for r, _ in rows[row][1]], shaping, alpha), credit, discount)
            for row in members
        ]
        expected = group_advantages(returns, credit, divide_by_std=divide)
        for row, wanted, back in zip(members, expected, returns, strict=True):
            spans = turn_spans(mask[row].tolist())
            for (start, stop), advantage, value in zip(spans, wanted, back, strict=True):
                assert gained[row, start:stop].tolist() == pytest.approx([advantage] * (stop - start), abs=1e-5)
                assert returned[row, start:stop].tolist() == pytest.approx([value] * (stop - start), abs=1e-5)
    assert not gained[mask == 0].any()
