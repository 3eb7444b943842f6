"""The adaptive user: a tutor attacks the model under test, while somebody else judges it."""

from __future__ import annotations

from safer_steer.dialogue import AnswerState, Exchange, History, Script
from safer_steer.errors import BadVerdict
from safer_steer.seats import Judge, Needs, UserMove
from safer_steer.verdict import Unscored, Verdict


class AdaptiveUser:
    """Says `û_1`, then what `tutor` proposes after its own look at the last answer.

    The scripted turn stands in when the tutor proposes nothing or the last answer shows nothing that could be
    judged. Raises `BadVerdict` when the tutor fails to give a verdict: a dialogue without its attacker is a fault.
    """

    needs = Needs.ANSWER

    def __init__(self, tutor: Judge) -> None:
        self._tutor = tutor

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        scripted = UserMove(script.turns[len(exchanges)].text)
        if not exchanges or exchanges[-1].answer.state is not AnswerState.OK:
            return scripted
        *before, last = exchanges
        history = History(script=script, exchanges=tuple(before), user=last.user)
        own = await self._tutor.assess(history, last.answer.text)
        if isinstance(own, Unscored):
            raise BadVerdict(f"the tutor gave no verdict: {own.detail}", reason=own.reason, where="adaptive user")
        return scripted if own.proposal is None else UserMove(own.proposal.user, own.proposal.attack)
