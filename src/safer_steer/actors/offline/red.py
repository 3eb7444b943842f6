"""The offline red agent: says the script's turn, taking up what the assistant has just answered."""

from __future__ import annotations

from safer_steer.actors.offline.frames import as_user, dealt, fill, fitting, load_frames, slots_of
from safer_steer.actors.offline.speech import is_refusal, offered_phrase
from safer_steer.actors.offline.text import sentences
from safer_steer.dialogue import Exchange, Script
from safer_steer.seats import Needs, UserMove
from safer_steer.verdict import Verdict


class OfflineRed:
    """Rewrites `û_t` given the history: softens after a refusal, leans on an offer, builds on an answer.

    The scripted words themselves stay, so the turn keeps its aim and its risk. Benign scripts and first turns are
    said as written. Deterministic: the frame follows from the script and the turn.
    """

    needs = Needs.ANSWER

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        scripted = script.turns[len(exchanges)].text
        if not exchanges or not script.is_unsafe:
            return UserMove(scripted)
        last = exchanges[-1].answer.text
        slots = slots_of(script)
        act = "after_answer"
        if any(is_refusal(sentence) for sentence in sentences(last)):
            offer = offered_phrase(last)
            act = "after_refusal" if offer is None else "after_offer"
            slots |= {} if offer is None else {"offer": as_user(offer)}
        frames = dealt(fitting(load_frames("red_frames")[act], slots), script.id, act)
        return UserMove(f"{fill(frames[len(exchanges) % len(frames)], slots)} {scripted}")
