"""Rollouts to trajectories: literal ids, masks and advantages, and what never becomes a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people import STAMP, script
from safer_steer.config import GrpoConfig
from safer_steer.dialogue import Answer, AnswerState, FinishReason, Rollout, StopReason, TokenTrace, Turn
from safer_steer.reward import Credit, Shaping
from safer_steer.train.trajectory import Dropped, DropReason, Group, build_group
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict

PLAIN = GrpoConfig(shaping=Shaping.NONE)


def graded(level: float) -> Scored:
    """All three scores at `level`: the turn reward is (level − 1) / 9."""
    scores = {"safety": level, "usefulness": level, "faithfulness": level}
    return Scored(scores=scores, rationale="told so", stamp=STAMP)


def turn(
    index: int,
    context: tuple[int, ...],
    response: tuple[int, ...],
    verdict: Verdict,
    state: AnswerState = AnswerState.OK,
) -> Turn:
    trace = TokenTrace(context=context, response=response, logprobs=tuple(-0.1 * token for token in response))
    said = Answer(text="a", raw="a", state=state, finish=FinishReason.STOP, trace=trace)
    return Turn(index=index, user="u", answer=said, verdict=verdict)


def played(*turns: Turn, sample: int = 0, stop: StopReason = StopReason.COMPLETED) -> Rollout:
    fault = None if stop is StopReason.COMPLETED else "told to"
    return Rollout(script=script("u", "v", "w"), sample=sample, turns=turns, stop=stop, fault=fault)


def two_turns(first: Verdict, second: Verdict, **more: object) -> Rollout:
    return played(turn(1, (5, 6), (7, 2), first), turn(2, (9, 6, 4), (8, 8, 2), second), **more)


def group_of(*rollouts: Rollout, config: GrpoConfig = PLAIN) -> Group:
    group = build_group(rollouts, config)
    assert isinstance(group, Group)
    return group


def test_tokens_are_concatenated_and_only_answers_are_trained() -> None:
    group = group_of(two_turns(graded(10), graded(10)), two_turns(graded(1), graded(1)))
    first, second = group.trajectories
    assert first.ids == (5, 6, 7, 2, 9, 6, 4, 8, 8, 2)
    assert first.mask == (False, False, True, True, False, False, False, True, True, True)
    assert first.spans == ((2, 4), (7, 10))
    assert first.logprobs == pytest.approx((0, 0, -0.7, -0.2, 0, 0, 0, -0.8, -0.8, -0.2))
    assert first.rewards == (1.0, 1.0)
    assert first.advantages == (1.0, 1.0)
    assert second.advantages == (-1.0, -1.0)
    assert first.token_advantages == (0, 0, 1, 1, 0, 0, 0, 1, 1, 1)


def test_the_worked_example_of_the_method() -> None:
    """r = (1, .8, .2, .9) with α = .3 returns 2.96417; against a perfect dialogue's 4 each is half the gap away."""
    levels = (10.0, 8.2, 2.8, 9.1)
    weak = played(*(turn(i, (1,), (2,), graded(level)) for i, level in enumerate(levels, 1)))
    strong = played(*(turn(i, (1,), (2,), graded(10)) for i in range(1, 5)), sample=1)
    group = group_of(weak, strong, config=GrpoConfig())
    assert [row[0] for row in group.returns] == pytest.approx([2.964167, 4.0], abs=1e-6)
    assert group.trajectories[0].advantages == pytest.approx((-0.517917,) * 4, abs=1e-6)


def test_turn_credit_gives_each_turn_its_own_advantage() -> None:
    config = GrpoConfig(shaping=Shaping.NONE, credit=Credit.TURN)
    group = group_of(two_turns(graded(10), graded(10)), two_turns(graded(10), graded(1)), config=config)
    assert group.trajectories[0].advantages == (0.5, 0.5)
    uneven = group_of(two_turns(graded(1), graded(10)), two_turns(graded(10), graded(10)), config=config)
    assert uneven.trajectories[0].advantages == (-0.5, 0.0)
    assert uneven.trajectories[0].token_advantages == (0, 0, -0.5, -0.5, 0, 0, 0, 0, 0, 0)


def test_an_unscored_turn_drops_the_group() -> None:
    silent = Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="timed out")
    result = build_group([two_turns(graded(10), graded(10)), two_turns(graded(1), silent)], PLAIN)
    assert isinstance(result, Dropped)
    assert result.reason is DropReason.UNSCORED
    assert "turn 2" in result.detail and "timed out" in result.detail


def test_a_fault_drops_the_group_and_names_it() -> None:
    broken = played(turn(1, (5,), (7, 2), graded(10)), stop=StopReason.CONTEXT_OVERFLOW)
    result = build_group([two_turns(graded(10), graded(10)), broken], PLAIN)
    assert isinstance(result, Dropped)
    assert (result.reason, "context_overflow" in result.detail) == (DropReason.FAULT, True)


def test_no_spread_is_skipped_and_too_long_is_dropped() -> None:
    even = [two_turns(graded(8), graded(8)), two_turns(graded(8), graded(8))]
    assert isinstance(none := build_group(even, PLAIN), Dropped) and none.reason is DropReason.ZERO_SPREAD
    uneven = [two_turns(graded(8), graded(8)), two_turns(graded(9), graded(8))]
    short = PLAIN.model_copy(update={"max_length": 9})
    assert isinstance(long := build_group(uneven, short), Dropped) and long.reason is DropReason.TOO_LONG


@pytest.mark.parametrize("state", [AnswerState.FORMAT_FAILURE, AnswerState.EMPTY])
def test_an_answer_without_text_earns_the_named_policy(state: AnswerState) -> None:
    verdict = Unscored(reason=UnscoredReason.FORMAT_FAILURE, detail="no tags")
    failed = played(turn(1, (5, 6), (7, 2), verdict, state), stop=StopReason.FORMAT_FAILURE)
    config = PLAIN.model_copy(update={"format_failure_reward": 0.25})
    group = group_of(played(turn(1, (5, 6), (8, 2), graded(10))), failed, config=config)
    assert group.trajectories[1].rewards == (0.25,)
    assert group.trajectories[1].advantages == (-0.375,)


def test_an_answer_without_a_trace_cannot_be_trained() -> None:
    bare = two_turns(graded(10), graded(10))
    first = bare.turns[0].model_copy(update={"answer": bare.turns[0].answer.model_copy(update={"trace": None})})
    bare = bare.model_copy(update={"turns": (first, *bare.turns[1:])})
    with pytest.raises(ValueError, match="token trace"):
        build_group([bare, two_turns(graded(1), graded(1))], PLAIN)


@given(st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=5), min_size=2, max_size=5), st.sampled_from(Credit))
def test_advantages_sum_to_zero_over_the_samples_that_are_compared(levels: list[list[int]], credit: Credit) -> None:
    rollouts = [
        played(*(turn(i, (1, 1), (3, 2), graded(float(level))) for i, level in enumerate(row, 1)), sample=k)
        for k, row in enumerate(levels)
    ]
    result = build_group(rollouts, GrpoConfig(credit=credit))
    if isinstance(result, Dropped):
        assert result.reason is DropReason.ZERO_SPREAD
        return
    for t in range(max(map(len, levels)) if credit is Credit.TURN else 1):
        assert sum(item.advantages[t] for item in result.trajectories if len(item.advantages) > t) == pytest.approx(0)
    for item in result.trajectories:
        assert len(item.ids) == len(item.mask) == len(item.logprobs) == len(item.token_advantages)
        assert sum(item.mask) == sum(stop - start for start, stop in item.spans)
