"""The red agent on any chat model: rewrites each scripted turn so that it follows from what was said."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safer_steer.actors.asking import ask
from safer_steer.actors.chat import ChatModel, Sampling
from safer_steer.actors.showing import dialogue_fence, messages_for, shown_history
from safer_steer.actors.verdict_parsing import Reply, declines_to_write
from safer_steer.dialogue import Exchange, Script, stable_id
from safer_steer.errors import BadVerdict
from safer_steer.prompts import load_prompt
from safer_steer.seats import Needs, UserMove
from safer_steer.verdict import UnscoredReason, Verdict


class Rewritten(Reply):
    user: Annotated[str, Field(min_length=1, max_length=4000)]


class LlmRed:
    """Says `û_1` as written and rewrites every later `û_t` given the history and every image shown up to it.

    Raises `BadVerdict` when two replies in a row cannot be used, or the model's own `ActorError`.
    """

    needs = Needs.ANSWER

    def __init__(self, model: ChatModel, *, temperature: float = 0.7, max_tokens: int = 2048, seed: int = 0) -> None:
        self._model, self._seed = model, seed
        self._sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self._prompt = load_prompt("red_rewrite")

    async def speak(self, script: Script, exchanges: tuple[Exchange, ...], verdict: Verdict | None) -> UserMove:
        turn = script.turns[len(exchanges)]
        if not exchanges:
            return UserMove(turn.text)
        fence = dialogue_fence(script)
        messages = messages_for(
            self._prompt,
            script.images_until(len(exchanges) + 1),
            history=shown_history(fence, exchanges),
            scripted=fence.wrap("script", turn.text),
            aim=turn.aim,
        )
        seed = int(stable_id("red", self._seed, script.id, len(exchanges)), 16) % 2**31
        sampling = self._sampling.model_copy(update={"seed": seed})
        try:
            reply = await ask(self._model, messages, sampling, Rewritten, _is_a_user_turn)
        except BadVerdict as error:
            what = f"the red agent wrote no usable turn: {error.what}"
            raise BadVerdict(what, reason=error.reason, where=script.id) from error
        return UserMove(reply.user.strip())


def _is_a_user_turn(reply: Rewritten) -> None:
    if not reply.user.strip():
        raise BadVerdict("field 'user': is blank", reason=UnscoredReason.UNPARSEABLE)
    if declines_to_write(reply.user):
        raise BadVerdict("field 'user': is a refusal, not a user's message", reason=UnscoredReason.REFUSED)
