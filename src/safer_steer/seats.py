"""Who can sit where: the protocols of the user, assistant and judge seats, and the `Cast` that fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from safer_steer.dialogue import Answer, Exchange, History, Script
from safer_steer.verdict import Stamp, Verdict


class Needs(StrEnum):
    """What a user seat must know before it speaks. It decides what may overlap.

    `SCRIPT` and `ANSWER` let the judge of turn t work while the assistant already answers turn t+1;
    `VERDICT` (the tutor's follow-up) does not.
    """

    SCRIPT = "script"
    ANSWER = "answer"
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True)
class UserMove:
    """What the user seat says, and the name of the attack when it is one."""

    text: str
    attack: str | None = None


@runtime_checkable
class UserActor(Protocol):
    """Writes `u_t`. `verdict` is turn t−1's, given only to actors that need it (`None` at the first turn)."""

    needs: Needs

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        """The next user turn; raises `ActorError`, or `BadVerdict` for a reply that no user would say."""
        ...


@runtime_checkable
class Assistant(Protocol):
    """Writes `a_t` given `h_t`; raises `ActorError` (or `ContextOverflow`)."""

    name: str

    async def answer(self, history: History) -> Answer: ...


@runtime_checkable
class Judge(Protocol):
    """Scores one answer, seeing the whole history and the images. Raises `ActorError`, or returns `Unscored`."""

    stamp: Stamp

    async def assess(self, history: History, answer: str) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Cast:
    """The people of one conversation. `stop_when` ends it early (the success filter stops at a leak)."""

    user: UserActor
    assistant: Assistant
    judge: Judge
    stop_when: Callable[[Verdict], bool] | None = None


class ScriptUser:
    """Says the script as written: the static protocol, and the ablation without Feedback Dynamics."""

    needs = Needs.SCRIPT

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        return UserMove(script.turns[len(exchanges)].text)
