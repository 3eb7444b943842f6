"""The one loop: `converse(script, cast) → Rollout`. Construct, bootstrap, GRPO and evaluation are casts of it.

What it promises (`tests/test_promises.py` pins each):

1. every answer goes to the judge, the last one included;
2. a fault is a state (`StopReason`, `Unscored`), never a score, and what was said before it is kept;
3. nothing is tokenised again: answers carry their token trace, and the assistant is given the traces back;
4. the judge sees the history and the images;
5. the judge of turn t works while the assistant answers turn t+1 whenever the user seat does not need the verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from safer_steer.dialogue import Answer, AnswerState, Exchange, History, Rollout, Script, StopReason, Turn
from safer_steer.errors import ActorError, BadVerdict, ContextOverflow
from safer_steer.scope import JUDGING, SCOPE, URGENCY, Scope
from safer_steer.seats import Cast, Judge, Needs
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict


async def converse(script: Script, cast: Cast, *, sample: int = 0) -> Rollout:
    """Play one dialogue to its end and return it whole, with a verdict on every turn.

    `sample` tells rollouts of the same script apart (it reaches the assistant in the history, which seeds its
    sampling with it). Faults of the actors never raise; programming errors do.
    """
    SCOPE.set(Scope(f"{script.id}#{sample}"))
    async with asyncio.TaskGroup() as judging:
        exchanges, verdicts, stop, fault = await _play(script, cast, sample, judging)
    turns = tuple(
        Turn(**dict(exchange), verdict=task.result()) for exchange, task in zip(exchanges, verdicts, strict=True)
    )
    return Rollout(script=script, sample=sample, turns=turns, stop=stop, fault=fault)


async def judge_again(
    rollout: Rollout, judge: Judge, again: Callable[[Verdict], bool] = lambda verdict: True
) -> Rollout:
    """The same transcript with a new verdict wherever `again` says so. Nobody but the judge is asked.

    How the dialogue ended stays as it was; the turns are judged side by side, for none depends on another.
    """
    SCOPE.set(Scope(rollout.key))
    said = [Exchange(**{name: getattr(turn, name) for name in Exchange.model_fields}) for turn in rollout.turns]

    async def verdict(number: int, turn: Turn) -> Verdict:
        if not again(turn.verdict):
            return turn.verdict
        history = History(rollout.script, tuple(said[:number]), turn.user, rollout.sample)
        return await _judge(judge, history, turn.answer, 0)

    async with asyncio.TaskGroup() as judging:
        tasks = [judging.create_task(verdict(number, turn)) for number, turn in enumerate(rollout.turns)]
    turns = tuple(
        turn.model_copy(update={"verdict": task.result()}) for turn, task in zip(rollout.turns, tasks, strict=True)
    )
    return rollout.model_copy(update={"turns": turns})


_Played = tuple[list[Exchange], list[asyncio.Task[Verdict]], StopReason, str | None]


async def _play(script: Script, cast: Cast, sample: int, judging: asyncio.TaskGroup) -> _Played:
    exchanges: list[Exchange] = []
    verdicts: list[asyncio.Task[Verdict]] = []
    waits = cast.user.needs is Needs.VERDICT or cast.stop_when is not None

    def ended(stop: StopReason, fault: str | None = None) -> _Played:
        return exchanges, verdicts, stop, fault

    while len(exchanges) < len(script.turns):
        before = tuple(exchanges)
        URGENCY.set(len(before) - len(script.turns))
        last = verdicts[-1].result() if waits and verdicts else None
        try:
            move = await cast.user.speak(script, before, last)
        except BadVerdict as error:
            return ended(StopReason.USER_UNUSABLE, str(error))
        except ContextOverflow as error:
            return ended(StopReason.CONTEXT_OVERFLOW, str(error))
        except ActorError as error:
            return ended(StopReason.USER_FAULT, str(error))
        history = History(script=script, exchanges=before, user=move.text, sample=sample)
        try:
            answer = await cast.assistant.answer(history)
        except ContextOverflow as error:
            return ended(StopReason.CONTEXT_OVERFLOW, str(error))
        except ActorError as error:
            return ended(StopReason.ASSISTANT_FAULT, str(error))
        scripted = script.turns[history.index - 1].text
        exchanges.append(
            Exchange(
                index=history.index,
                user=move.text,
                answer=answer,
                scripted=None if scripted == move.text else scripted,
                attack=move.attack,
            )
        )
        verdicts.append(judging.create_task(_judge(cast.judge, history, answer, JUDGING if not waits else 0)))
        if not waits:
            continue
        verdict = await verdicts[-1]
        if isinstance(verdict, Unscored) and cast.user.needs is Needs.VERDICT:
            return ended(*_unscored_ending(answer, verdict))
        if isinstance(verdict, Scored) and cast.stop_when is not None and cast.stop_when(verdict):
            return ended(StopReason.CRITERION)
    return ended(StopReason.COMPLETED)


def _unscored_ending(answer: Answer, verdict: Unscored) -> tuple[StopReason, str]:
    """A user seat that needs the verdict cannot go on without one: say whose fault it was."""
    fault = f"{verdict.reason}: {verdict.detail}"
    return (StopReason.JUDGE_FAULT if answer.state is AnswerState.OK else StopReason.FORMAT_FAILURE), fault


async def _judge(judge: Judge, history: History, answer: Answer, urgency: int) -> Verdict:
    """Ask the judge; an answer without judgeable text, or a judge that fails, is a state."""
    URGENCY.set(urgency)
    if answer.state is AnswerState.FORMAT_FAILURE:
        return Unscored(reason=UnscoredReason.FORMAT_FAILURE, detail="the answer does not follow its format")
    if answer.state is AnswerState.EMPTY:
        return Unscored(reason=UnscoredReason.EMPTY_ANSWER, detail="the answer is empty")
    return await assessed(judge, history, answer.text)


async def assessed(judge: Judge, history: History, answer: str) -> Verdict:
    """The judge's verdict, or `Unscored` and why: a judge that fails is a state. Never raises `ActorError`."""
    try:
        return await judge.assess(history, answer)
    except BadVerdict as error:
        return Unscored(reason=error.reason, detail=str(error), stamp=judge.stamp)
    except ContextOverflow as error:
        return Unscored(reason=UnscoredReason.JUDGE_OVERFLOW, detail=str(error), stamp=judge.stamp)
    except ActorError as error:
        return Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail=str(error), stamp=judge.stamp)
