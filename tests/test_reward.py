"""Rewards, pinned: the method's worked example, and what holds for every dialogue."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.reward import (
    Credit,
    RewardWeights,
    Shaping,
    group_advantages,
    has_spread,
    locked_usefulness,
    shaped_rewards,
    tcsr,
    trajectory_return,
    turn_returns,
    turn_reward,
)

unit = st.floats(0, 1, allow_nan=False)
dialogue = st.lists(unit, min_size=1, max_size=10)
grade = st.integers(1, 10)
KEYS = ("safety", "usefulness", "faithfulness")


def close(left: list[float], right: list[float]) -> bool:
    return len(left) == len(right) and all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(left, right, strict=True))


def means(rewards: list[float]) -> list[float]:
    return [total / t for t, total in enumerate(accumulate(rewards), 1)]


def test_the_worked_example() -> None:
    rewards = [1.0, 0.8, 0.2, 0.9]
    assert close(tcsr(rewards, 0.3), [1.0, 0.87, 0.3 * 0.2 + 0.7 * 2 / 3, 0.5675])
    assert tcsr(rewards)[2] == pytest.approx(0.52667, abs=5e-6)
    assert trajectory_return(rewards) == pytest.approx(2.96417, abs=5e-6)


@given(dialogue, unit)
def test_a_shaped_reward_lies_between_the_minimum_and_the_mean_so_far(rewards: list[float], alpha: float) -> None:
    for low, value, mean in zip(accumulate(rewards, min), tcsr(rewards, alpha), means(rewards), strict=True):
        assert low - 1e-9 <= value <= mean + 1e-9


@given(dialogue)
def test_alpha_zero_is_the_running_mean_and_one_the_running_minimum(rewards: list[float]) -> None:
    assert close(tcsr(rewards, 0.0), means(rewards))
    assert close(tcsr(rewards, 1.0), list(accumulate(rewards, min)))


@given(dialogue, dialogue, unit)
def test_what_comes_later_changes_nothing_before(rewards: list[float], later: list[float], alpha: float) -> None:
    assert tcsr(rewards + later, alpha)[: len(rewards)] == tcsr(rewards, alpha)


@given(dialogue, st.integers(0, 9), unit, unit)
def test_a_better_turn_never_lowers_the_return(rewards: list[float], at: int, better: float, alpha: float) -> None:
    raised = list(rewards)
    raised[at % len(rewards)] = max(better, raised[at % len(rewards)])
    assert trajectory_return(raised, alpha) >= trajectory_return(rewards, alpha) - 1e-9


@given(unit, st.integers(1, 10), unit)
def test_an_even_dialogue_is_worth_its_level_times_its_length(level: float, turns: int, alpha: float) -> None:
    assert trajectory_return([level] * turns, alpha) == pytest.approx(level * turns)


def test_no_turns_no_reward_and_no_foreign_alpha() -> None:
    assert (tcsr([]), trajectory_return([])) == ([], 0)
    for alpha in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            tcsr([1.0], alpha)


def test_an_early_breach_is_remembered_and_a_mean_would_forgive_it() -> None:
    assert tcsr([0.0] + [1.0] * 9, 0.3)[-1] == pytest.approx(0.63)
    assert tcsr([0.0] + [1.0] * 9, 0.0)[-1] == pytest.approx(0.9)


@given(grade, grade, grade)
def test_a_turn_reward_is_in_the_unit_interval_and_is_the_weighted_grade(s: int, u: int, f: int) -> None:
    reward = turn_reward(dict(zip(KEYS, (s, u, f), strict=True)))
    assert 0 <= reward <= 1
    assert reward == pytest.approx((0.4 * s + 0.4 * u + 0.2 * f - 1) / 9)


@given(st.tuples(grade, grade, grade), st.sampled_from(KEYS))
def test_a_turn_reward_rises_with_every_grade(grades: tuple[int, int, int], key: str) -> None:
    scores = dict(zip(KEYS, grades, strict=True))
    higher = {**scores, key: min(10, scores[key] + 1)}
    assert (turn_reward(higher) > turn_reward(scores)) == (scores[key] < 10)


@pytest.mark.parametrize(
    "scores", [{}, {"safety": 10, "usefulness": 10}, dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 11)]
)
def test_a_missing_or_foreign_score_is_never_a_number(scores: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is not a score"):
        turn_reward(scores)
    with pytest.raises(ValueError, match="is not a score"):
        turn_reward({**dict.fromkeys(KEYS, 5.0), "safety": math.nan})


def test_weights_sum_to_one() -> None:
    with pytest.raises(ValueError, match="sum to"):
        RewardWeights(safety=0.5)
    only = RewardWeights(safety=1.0, usefulness=0.0, faithfulness=0.0)
    assert turn_reward({"safety": 10, "usefulness": 1, "faithfulness": 1}, only) == 1.0


def test_the_lock_of_usefulness_by_safety_is_the_rubrics_table() -> None:
    locked = {1: 1, 2: 1, 3: 1, 4: 1, 6: 8, 8: 8, 10: 10}
    for usefulness in range(1, 11):
        found = {safety: locked_usefulness(safety, usefulness) for safety in range(1, 11)}
        assert found == {**dict.fromkeys((5, 7, 9), usefulness), **locked}


@given(dialogue, unit)
def test_credits_agree_on_what_a_dialogue_is_worth(rewards: list[float], alpha: float) -> None:
    shaped = shaped_rewards(rewards, Shaping.TCSR, alpha)
    total = trajectory_return(rewards, alpha)
    assert close(turn_returns(shaped, Credit.SUM), [total] * len(rewards))
    assert close(turn_returns(shaped, Credit.MEAN), [total / len(rewards)] * len(rewards))
    assert turn_returns(shaped, Credit.TURN)[0] == pytest.approx(total)
    assert turn_returns(shaped, Credit.TURN)[-1] == pytest.approx(shaped[-1])
    assert shaped_rewards(rewards, Shaping.NONE) == rewards


@given(dialogue, unit)
def test_a_discounted_turn_counts_later_turns_less_and_no_other_credit_is_discounted(
    rewards: list[float], discount: float
) -> None:
    found = turn_returns(rewards, Credit.TURN, discount)
    powers = [[reward * discount**ahead for ahead, reward in enumerate(rewards[t:])] for t in range(len(rewards))]
    assert close(found, [sum(row) for row in powers])
    assert turn_returns(rewards, Credit.TURN, 0.0) == pytest.approx(rewards)
    for credit in (Credit.SUM, Credit.MEAN):
        assert turn_returns(rewards, credit, discount) == turn_returns(rewards, credit)
    with pytest.raises(ValueError, match="discount"):
        turn_returns(rewards, Credit.TURN, 1.5)


groups = st.integers(1, 6).flatmap(
    lambda turns: st.lists(st.lists(unit, min_size=turns, max_size=turns), min_size=2, max_size=6)
)


@given(groups)
def test_advantages_of_a_group_sum_to_nothing_at_every_turn(returns: list[list[float]]) -> None:
    for credit in (Credit.SUM, Credit.TURN):
        for column in zip(*group_advantages(returns, credit), strict=True):
            assert sum(column) == pytest.approx(0, abs=1e-9)


@given(groups, st.randoms(use_true_random=False))
def test_advantages_do_not_depend_on_the_order_of_the_rollouts(returns: list[list[float]], random: object) -> None:
    order = list(range(len(returns)))
    random.shuffle(order)
    for credit in Credit:
        shuffled = group_advantages([returns[k] for k in order], credit)
        straight = group_advantages(returns, credit)
        assert all(close(shuffled[i], straight[k]) for i, k in enumerate(order))


@given(groups, unit)
def test_advantages_do_not_see_what_all_rollouts_share(returns: list[list[float]], bonus: float) -> None:
    for credit in Credit:
        lifted = group_advantages([[value + bonus for value in row] for row in returns], credit)
        assert all(close(a, b) for a, b in zip(lifted, group_advantages(returns, credit), strict=True))


@given(groups)
def test_the_spread_is_divided_out_only_on_request(returns: list[list[float]]) -> None:
    for column in zip(*group_advantages(returns, Credit.TURN, divide_by_std=True), strict=True):
        power = sum(value**2 for value in column) / len(column)
        assert power == pytest.approx(1, abs=1e-6) or power <= 1e-15


def test_turns_of_dialogues_that_differ_in_length_are_compared_where_both_have_them() -> None:
    assert group_advantages([[1.0, 2.0], [3.0]], Credit.TURN) == [[-1.0, 0.0], [1.0]]
    assert has_spread([[1.0, 2.0], [3.0]], Credit.TURN)
    assert not has_spread([[1.0, 2.0], [1.0]], Credit.TURN)


@pytest.mark.parametrize("credit", Credit)
def test_no_rollouts_and_equal_ones_say_nothing(credit: Credit) -> None:
    assert group_advantages([], credit) == []
    assert not has_spread([[0.5] * 3] * 4, credit)


@pytest.mark.parametrize("credit", [Credit.SUM, Credit.MEAN])
def test_the_paper_s_advantage_is_of_the_whole_dialogue_whatever_its_length(credit: Credit) -> None:
    """Two that broke their format at turn 2 do not take the later turns of the good one out of the comparison."""
    returns = [turn_returns(row, credit) for row in ([0.75, 0.75, 0.75, 0.75], [0.45, 0.45], [0.45, 0.45])]
    scalars = [row[0] for row in returns]
    expected = [value - sum(scalars) / 3 for value in scalars]
    assert group_advantages(returns, credit) == [[expected[0]] * 4, [expected[1]] * 2, [expected[2]] * 2]
    assert expected[0] > 0


@given(st.lists(st.lists(unit, min_size=1, max_size=6), min_size=2, max_size=6), st.sampled_from(["sum", "mean"]))
def test_a_dialogue_has_one_advantage_and_a_group_s_sum_to_nothing(rewards: list[list[float]], name: str) -> None:
    credit = Credit(name)
    found = group_advantages([turn_returns(row, credit) for row in rewards], credit)
    assert [len(row) for row in found] == [len(row) for row in rewards]
    assert all(len(set(row)) == 1 for row in found)
    assert sum(row[0] for row in found) == pytest.approx(0, abs=1e-9)
