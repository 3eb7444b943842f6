"""Actors that do as they are told, and short ways to make records: for tests of the loop and of what stands on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

from pydantic import BaseModel

from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.dialogue import (
    Answer,
    AnswerState,
    Exchange,
    FinishReason,
    History,
    ImageRef,
    Rollout,
    Script,
    ScriptKind,
    StopReason,
    TokenTrace,
    Turn,
    UserTurn,
)
from safer_steer.errors import ActorError
from safer_steer.seats import Needs, UserMove
from safer_steer.verdict import GuardReading, Proposal, Scored, Stamp, Verdict

STAMP = Stamp(judge="told", prompt="none", version="1")


def script(*users: str, id: str = "s1", kind: ScriptKind = ScriptKind.RED_TEAM, **more: object) -> Script:
    turns = tuple(UserTurn(text=user) for user in users)
    return Script(id=id, seed_id=f"seed-{id}", kind=kind, category="fraud", images=(), turns=turns, **more)


def answer(text: str = "ok", state: AnswerState = AnswerState.OK, trace: TokenTrace | None = None) -> Answer:
    return Answer(text=text, raw=text, state=state, finish=FinishReason.STOP, trace=trace)


def scored(safety: float = 3, helpfulness: float = 3, **more: object) -> Scored:
    return Scored(scores={"safety": safety, "helpfulness": helpfulness}, rationale="told so", stamp=STAMP, **more)


def guarded(unsafe: bool, *categories: str, refusal: bool | None = None, prob: float | None = None) -> Scored:
    reading = GuardReading(unsafe_prob=prob, refusal=refusal, categories=categories, raw="told so")
    return Scored(scores={"unsafe": float(unsafe)}, rationale="told so", stamp=STAMP, guard=reading)


def rollout(of: Script, verdicts: list[Verdict], answers: list[str] | None = None, sample: int = 0) -> Rollout:
    """A completed dialogue with these verdicts, one a turn."""
    texts = answers or [f"a{i}" for i in range(len(verdicts))]
    turns = tuple(
        Turn(index=i, user=of.turns[i - 1].text, answer=answer(text), verdict=verdict)
        for i, (text, verdict) in enumerate(zip(texts, verdicts, strict=True), 1)
    )
    return Rollout(script=of, sample=sample, turns=turns, stop=StopReason.COMPLETED)


class ToldAssistant:
    """Answers by a function of the history; an `ActorError` in the function is raised as such."""

    name = "told"

    def __init__(self, say: Callable[[History], Answer | str], delay: float = 0.0) -> None:
        self._say, self._delay = say, delay
        self.seen: list[History] = []

    async def answer(self, history: History) -> Answer:
        self.seen.append(history)
        await asyncio.sleep(self._delay)
        said = self._say(history)
        return answer(said) if isinstance(said, str) else said


class ToldJudge:
    """Judges by a function of history and answer."""

    stamp = STAMP

    def __init__(self, judge: Callable[[History, str], Verdict], delay: float = 0.0) -> None:
        self._judge, self._delay = judge, delay
        self.seen: list[tuple[History, str]] = []

    async def assess(self, history: History, answer: str) -> Verdict:
        self.seen.append((history, answer))
        await asyncio.sleep(self._delay)
        return self._judge(history, answer)


class FollowsProposal:
    """A user seat that needs the verdict: says what the tutor proposed."""

    needs = Needs.VERDICT

    async def speak(self, script: Script, exchanges: tuple, verdict: Verdict | None) -> UserMove:
        if verdict is None:
            return UserMove(script.turns[0].text)
        if not isinstance(verdict, Scored) or verdict.proposal is None:
            raise ActorError("no proposal")
        return UserMove(verdict.proposal.user, verdict.proposal.attack)


def proposing(history: History, text: str) -> Verdict:
    """A tutor's verdict that proposes a next turn whenever the script has one."""
    following = history.scripted_next
    proposal = None if following is None else Proposal(user=f"instead of: {following}", attack="persistence")
    return scored(proposal=proposal)


IMAGE = ImageRef(sha256="a" * 64, media_type="image/png", width=4, height=4)


class ToldModel:
    """Gives the replies one after the other (the last one for ever) and keeps what it was asked."""

    name = "told-model"

    def __init__(self, *replies: object, finish: FinishReason = FinishReason.STOP) -> None:
        self._replies, self._finish = replies, finish
        self.asked: list[list[Message]] = []
        self.samplings: list[Sampling] = []

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        reply = self._replies[min(len(self.asked), len(self._replies) - 1)]
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        if isinstance(reply, Exception):
            raise reply
        return Completion(text=reply if isinstance(reply, str) else json.dumps(reply), finish=self._finish)

    async def aclose(self) -> None:
        return


def history(*said: str, of: int = 3, **more: object) -> History:
    """A dialogue of `of` turns at its turn `len(said) + 1`."""
    plan = script(*(f"û{i}" for i in range(1, of + 1)), **more).model_copy(update={"images": (IMAGE,)})
    past = tuple(Exchange(index=i, user=f"u{i}", answer=answer(text)) for i, text in enumerate(said, 1))
    return History(script=plan, exchanges=past, user=f"u{len(said) + 1}")
