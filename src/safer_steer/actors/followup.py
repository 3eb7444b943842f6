"""The tutor's follow-up in the user seat: Feedback Dynamics of Stage III."""

from __future__ import annotations

from safer_steer.dialogue import Exchange, Script
from safer_steer.seats import Needs, UserMove
from safer_steer.verdict import Scored, Verdict


class FollowUp:
    """Says `û_1`, then the turn that the tutor proposed together with its verdict on the last answer.

    The judge of the cast is the tutor, so nobody is asked twice. Where the tutor proposes nothing, the scripted
    turn stands.
    """

    needs = Needs.VERDICT

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        if isinstance(verdict, Scored) and verdict.proposal is not None:
            return UserMove(verdict.proposal.user, verdict.proposal.attack)
        return UserMove(script.turns[len(exchanges)].text)
