"""The tutor on any chat model: one structured reply that grades an answer and writes the next user turn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safer_steer.actors.asking import ask
from safer_steer.actors.chat import ChatModel, Message, Sampling
from safer_steer.actors.judge import JUDGING, Rationale, refuse_copy
from safer_steer.actors.showing import case_values, dialogue_fence, messages_for
from safer_steer.actors.verdict_parsing import declines_to_write, read_scores, schema_with_scores
from safer_steer.dialogue import History
from safer_steer.errors import BadVerdict
from safer_steer.prompts import load_prompt
from safer_steer.reward import locked_usefulness
from safer_steer.verdict import REWARD, Proposal, Scored, Stamp, UnscoredReason, Verdict

USEFULNESS_LOCKED = "usefulness_locked"
"""The flag of a verdict whose usefulness the rubric's lock replaced."""


class Tutoring(Rationale):
    """A grade with Feedback Dynamics."""

    diagnosis: str
    attack: Literal["persistence", "bait_and_switch", "deepen", "coax", "continue"]
    next_user: Annotated[str, Field(min_length=1, max_length=4000)]


_BESIDE = Tutoring.model_fields.keys() - Rationale.model_fields.keys()
"""What a tutor says besides its verdict: where the verdict is a copy, its own diagnosis does not make it one's own."""


class LlmTutor:
    """Sees `(h_t, a_t, û_{t+1})`, images included; scores on `REWARD` and proposes `u_{t+1}`.

    There is no proposal after the last turn, nor ever with `proposes=False` (bootstrap's reward judge, the ablation).
    A verdict that stands word for word in the dialogue is unusable, as for the judge (`judge.refuse_copy`).
    The rubric's lock of usefulness by safety is applied to what the model said, and flagged where it changed a score.
    """

    def __init__(self, model: ChatModel, *, proposes: bool = True, sampling: Sampling = JUDGING) -> None:
        self._model, self._proposes, self._sampling = model, proposes, sampling
        self._prompt = load_prompt("tutor")
        self._graded = schema_with_scores(Rationale, REWARD)
        self._tutored = schema_with_scores(Tutoring, REWARD)
        self.stamp = Stamp(judge=model.name, prompt=self._prompt.digest, version=self._prompt.version)

    async def assess(self, history: History, answer: str) -> Verdict:
        """Raises `BadVerdict` after two unusable replies, or the model's own `ActorError`."""

        def check(reply: Rationale) -> None:
            refuse_copy(reply, history, answer, _BESIDE)
            if isinstance(reply, Tutoring):
                _is_a_user_turn(reply)

        planned = history.scripted_next if self._proposes else None
        messages = self._messages(history, answer, planned)
        if planned is None:
            graded = await ask(self._model, messages, self._sampling, self._graded, check)
            return self._verdict(graded, graded.rationale, None)
        tutored = await ask(self._model, messages, self._sampling, self._tutored, check)
        proposal = Proposal(user=tutored.next_user.strip(), attack=tutored.attack)
        return self._verdict(tutored, f"{tutored.rationale} Weak spot: {tutored.diagnosis}", proposal)

    def _messages(self, history: History, answer: str, planned: str | None) -> list[Message]:
        script = history.script
        return messages_for(
            self._prompt,
            history.images,
            **case_values(history, answer),
            proposes=planned is not None,
            planned=None if planned is None else dialogue_fence(script).wrap("planned", planned),
            unsafe=script.is_unsafe,
            category=script.category,
            borderline=script.borderline,
        )

    def _verdict(self, reply: Rationale, rationale: str, proposal: Proposal | None) -> Scored:
        scores = read_scores(reply, REWARD)
        locked = locked_usefulness(int(scores["safety"]), int(scores["usefulness"]))
        flags = () if locked == scores["usefulness"] else (USEFULNESS_LOCKED,)
        return Scored(
            scores={**scores, "usefulness": locked},
            rationale=rationale,
            stamp=self.stamp,
            flags=flags,
            proposal=proposal,
        )


def _is_a_user_turn(reply: Tutoring) -> None:
    if not reply.next_user.strip():
        raise BadVerdict("field 'next_user': is blank", reason=UnscoredReason.UNPARSEABLE)
    if declines_to_write(reply.next_user):
        raise BadVerdict("field 'next_user': is a refusal, not a user's message", reason=UnscoredReason.REFUSED)
