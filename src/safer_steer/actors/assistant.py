"""A chat model in the assistant seat: history to messages, raw text to the answer that is shown and judged."""

from __future__ import annotations

import re

from safer_steer.actors.chat import ChatModel, Message, Role, Sampling
from safer_steer.config import Recipe
from safer_steer.dialogue import Answer, AnswerFormat, AnswerState, History, stable_id
from safer_steer.prompts import load_prompt

_TAGGED = re.compile(r"\s*<thinking>(.*?)</thinking>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def parse_answer(raw: str, answer_format: AnswerFormat) -> tuple[str, AnswerState]:
    """The text to show, and its state. A format failure shows nothing.

    >>> parse_answer("<thinking>hm</thinking><answer>No.</answer>", AnswerFormat.TAGGED)
    ('No.', <AnswerState.OK: 'ok'>)
    >>> parse_answer("No.", AnswerFormat.TAGGED)
    ('', <AnswerState.FORMAT_FAILURE: 'format_failure'>)
    """
    text = raw.strip()
    if answer_format is AnswerFormat.TAGGED:
        match = _TAGGED.fullmatch(raw)
        if match is None or "<answer>" in match[2] or "</thinking>" in match[1]:
            return "", AnswerState.FORMAT_FAILURE
        text = match[2].strip()
    return text, AnswerState.OK if text else AnswerState.EMPTY


def system_of(recipe: Recipe) -> str | None:
    """What students and models under test are told before a dialogue: the recipe's system prompt, or nothing.

    Where answers are tagged the form is told too, unless the recipe's own prompt does: no model writes it unasked, and
    an answer out of form is not judged.
    """
    own = recipe.system_prompt
    if recipe.answer_format is not AnswerFormat.TAGGED or (own is not None and "<answer>" in own):
        return own
    form, _ = load_prompt("answer_form").render()
    return form if own is None else f"{own}\n\n{form}"


def messages_of(history: History, system: str | None = None) -> list[Message]:
    """`h_t` as chat messages: images in the turns that bring them, every answer's raw text and token trace kept."""
    messages = [] if system is None else [Message(role=Role.SYSTEM, text=system)]
    for exchange in history.exchanges:
        images = history.script.images_at(exchange.index)
        messages.append(Message(role=Role.USER, text=exchange.user, images=images))
        answer = exchange.answer
        messages.append(Message(role=Role.ASSISTANT, text=answer.raw, trace=answer.trace))
    messages.append(Message(role=Role.USER, text=history.user, images=history.script.images_at(history.index)))
    return messages


class ChatAssistant:
    """Seats a `ChatModel` as the assistant.

    The sampling seed of each answer follows from `seed`, the script, the sample and the turn, so that a resumed
    run samples what an undisturbed one would.
    """

    def __init__(
        self,
        model: ChatModel,
        sampling: Sampling,
        *,
        answer_format: AnswerFormat = AnswerFormat.PLAIN,
        system: str | None = None,
        seed: int = 0,
    ) -> None:
        self.name = model.name
        self._model, self._sampling, self._format = model, sampling, answer_format
        self._system, self._seed = system, seed

    async def answer(self, history: History) -> Answer:
        seed = int(stable_id(self._seed, history.script.id, history.sample, history.index), 16) % 2**31
        sampling = self._sampling.model_copy(update={"seed": seed})
        completion = await self._model.complete(messages_of(history, self._system), sampling)
        text, state = parse_answer(completion.text, self._format)
        return Answer(
            text=text,
            raw=completion.text,
            state=state,
            finish=completion.finish,
            usage=completion.usage,
            trace=completion.trace,
        )
