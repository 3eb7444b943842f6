"""What `converse` promises, pinned. If one of these fails, the loop is wrong, not the test."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people import STAMP, FollowsProposal, ToldAssistant, ToldJudge, answer, proposing, scored, script
from safer_steer.actors.assistant import ChatAssistant
from safer_steer.actors.chat import Completion, Sampling
from safer_steer.converse import converse
from safer_steer.dialogue import AnswerState, FinishReason, ImageRef, Rollout, StopReason, TokenTrace
from safer_steer.errors import ActorError, BadVerdict, ContextOverflow, EndpointError
from safer_steer.seats import Cast, Needs, ScriptUser, UserMove
from safer_steer.verdict import Scored, Unscored, UnscoredReason

pytestmark = pytest.mark.anyio


def cast(say=lambda h: f"answer {h.index}", judge=lambda h, a: scored(), user=None, **more) -> Cast:
    return Cast(user or ScriptUser(), ToldAssistant(say), ToldJudge(judge), **more)


async def test_every_answer_is_judged_the_last_one_included():
    seats = cast()
    rollout = await converse(script("one", "two", "three"), seats)
    assert [text for _, text in seats.judge.seen] == ["answer 1", "answer 2", "answer 3"]
    assert [type(turn.verdict) for turn in rollout.turns] == [Scored, Scored, Scored]
    assert rollout.stop is StopReason.COMPLETED and rollout.fault is None


async def test_a_single_turn_dialogue_is_judged_too():
    rollout = await converse(script("one"), cast())
    assert len(rollout.turns) == 1 and isinstance(rollout.turns[0].verdict, Scored)


async def test_the_judge_sees_history_and_images():
    image = ImageRef(sha256="0" * 64, media_type="image/png", width=2, height=2)
    seats = cast()
    await converse(script("one", "two").model_copy(update={"images": (image,)}), seats)
    history, text = seats.judge.seen[1]
    assert history.images == (image,)
    assert (history.user, text) == ("two", "answer 2")
    assert [(e.user, e.answer.text) for e in history.exchanges] == [("one", "answer 1")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EndpointError("down"), UnscoredReason.JUDGE_UNREACHABLE),
        (BadVerdict("seven", reason=UnscoredReason.OUT_OF_RANGE), UnscoredReason.OUT_OF_RANGE),
        (BadVerdict("what", reason=UnscoredReason.UNPARSEABLE), UnscoredReason.UNPARSEABLE),
    ],
)
async def test_a_judge_fault_is_a_state_and_the_dialogue_goes_on(error, reason):
    def judge(history, text):
        if history.index == 2:
            raise error
        return scored()

    rollout = await converse(script("one", "two", "three"), cast(judge=judge))
    assert rollout.stop is StopReason.COMPLETED
    verdict = rollout.turns[1].verdict
    assert isinstance(verdict, Unscored) and verdict.reason is reason and verdict.stamp == STAMP
    assert isinstance(rollout.turns[0].verdict, Scored) and isinstance(rollout.turns[2].verdict, Scored)


@pytest.mark.parametrize(
    ("error", "stop"),
    [(EndpointError("down"), StopReason.ASSISTANT_FAULT), (ContextOverflow("full"), StopReason.CONTEXT_OVERFLOW)],
)
async def test_an_assistant_fault_keeps_what_was_said_and_judged(error, stop):
    def say(history):
        if history.index == 2:
            raise error
        return "fine"

    rollout = await converse(script("one", "two", "three"), cast(say=say))
    assert (rollout.stop, len(rollout.turns)) == (stop, 1)
    assert isinstance(rollout.turns[0].verdict, Scored) and str(error) == rollout.fault


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        (ActorError("lost my voice"), StopReason.USER_FAULT),
        (BadVerdict("no user's turn", reason=UnscoredReason.REFUSED), StopReason.USER_UNUSABLE),
        (ContextOverflow("full"), StopReason.CONTEXT_OVERFLOW),
    ],
)
async def test_a_user_fault_is_an_ending(error, stop):
    class Mute:
        needs = Needs.ANSWER

        async def speak(self, script, exchanges, verdict):
            if exchanges:
                raise error
            return UserMove("hello")

    rollout = await converse(script("one", "two"), cast(user=Mute()))
    assert rollout.stop is stop and rollout.fault == str(error)
    assert rollout.turns[0].scripted == "one"


async def test_an_answer_without_judgeable_text_is_unscored_and_never_reaches_the_judge():
    states = {1: AnswerState.EMPTY, 2: AnswerState.FORMAT_FAILURE, 3: AnswerState.OK}
    seats = cast(say=lambda h: answer("x" if states[h.index] is AnswerState.OK else "", states[h.index]))
    rollout = await converse(script("one", "two", "three"), seats)
    reasons = [turn.verdict.reason for turn in rollout.turns[:2]]
    assert reasons == [UnscoredReason.EMPTY_ANSWER, UnscoredReason.FORMAT_FAILURE]
    assert len(seats.judge.seen) == 1


async def test_feedback_replaces_the_script_and_names_the_attack():
    rollout = await converse(script("one", "two"), cast(judge=proposing, user=FollowsProposal()))
    second = rollout.turns[1]
    assert (second.user, second.scripted, second.attack) == ("instead of: two", "two", "persistence")
    assert rollout.turns[0].scripted is None
    assert rollout.turns[1].verdict.proposal is None


async def test_a_user_that_needs_a_missing_verdict_ends_the_dialogue_and_says_whose_fault():
    def judge(history, text):
        raise EndpointError("down")

    rollout = await converse(script("one", "two"), cast(judge=judge, user=FollowsProposal()))
    assert (rollout.stop, len(rollout.turns)) == (StopReason.JUDGE_FAULT, 1)
    broken = cast(say=lambda h: answer("", AnswerState.FORMAT_FAILURE), judge=proposing, user=FollowsProposal())
    assert (await converse(script("one", "two"), broken)).stop is StopReason.FORMAT_FAILURE


async def test_the_criterion_stops_at_the_first_turn_that_meets_it():
    seats = cast(judge=lambda h, a: scored(safety=h.index), stop_when=lambda v: v.scores["safety"] >= 2)
    rollout = await converse(script("one", "two", "three"), seats)
    assert (rollout.stop, len(rollout.turns), len(seats.assistant.seen)) == (StopReason.CRITERION, 2, 2)


async def test_judging_overlaps_the_next_answer_unless_the_user_waits_for_the_verdict():
    async def order(user, judge):
        """What began and ended, in order, when a judge never ends before the next answer could have begun."""
        events, answered = [], asyncio.Condition()

        class Assistant(ToldAssistant):
            async def answer(self, history):
                async with answered:
                    events.append(f"answer {history.index}")
                    answered.notify_all()
                return answer("a")

        class Judge(ToldJudge):
            async def assess(self, history, text):
                events.append(f"judge {history.index} begins")
                following = f"answer {history.index + 1}"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2), answered:
                        await answered.wait_for(lambda: following in events or history.index == 3)
                events.append(f"judge {history.index} ends")
                return judge(history, text)

        await converse(script(*"abc"), Cast(user, Assistant(lambda h: "a"), Judge(judge)))
        return events

    overlapping = await order(ScriptUser(), lambda h, a: scored())
    assert [overlapping.index(f"answer {t + 1}") < overlapping.index(f"judge {t} ends") for t in (1, 2)] == [True, True]
    waiting = await order(FollowsProposal(), proposing)
    assert [waiting.index(f"answer {t + 1}") > waiting.index(f"judge {t} ends") for t in (1, 2)] == [True, True]


async def test_nothing_is_tokenised_again_the_traces_come_back():
    class Model:
        name = "traced"

        def __init__(self):
            self.traces = []

        async def complete(self, messages, sampling, schema=None):
            self.traces.append([m.trace for m in messages if m.trace is not None])
            trace = TokenTrace(context=(1, len(self.traces)), response=(7,), logprobs=(-0.5,))
            return Completion(text="raw", finish=FinishReason.STOP, trace=trace)

        async def aclose(self):
            pass

    model = Model()
    seats = Cast(ScriptUser(), ChatAssistant(model, Sampling()), ToldJudge(lambda h, a: scored()))
    rollout = await converse(script("one", "two", "three"), seats)
    assert model.traces[2] == [turn.answer.trace for turn in rollout.turns[:2]]


async def test_a_programming_error_is_not_swallowed():
    def judge(history, text):
        raise KeyError("bug")

    with pytest.raises(ExceptionGroup):
        await converse(script("one"), cast(judge=judge))


async def test_a_rollout_survives_its_own_json():
    rollout = await converse(script("one", "two"), cast(judge=proposing, user=FollowsProposal()))
    assert Rollout.from_json(rollout.to_json()) == rollout


@given(st.lists(st.sampled_from(["ok", "judge fault", "empty"]), min_size=1, max_size=10))
async def test_every_turn_has_exactly_one_verdict_whatever_happens(states):
    def say(history):
        empty = states[history.index - 1] == "empty"
        return answer("" if empty else "x", AnswerState.EMPTY if empty else AnswerState.OK)

    def judge(history, text):
        if states[history.index - 1] == "judge fault":
            raise EndpointError("down")
        return scored()

    rollout = await converse(script(*(str(i) for i in range(len(states)))), cast(say=say, judge=judge))
    assert [isinstance(t.verdict, Scored) for t in rollout.turns] == [s == "ok" for s in states]
