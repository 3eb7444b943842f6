"""The blue expert on any chat model: an assistant under our safety guidelines."""

from __future__ import annotations

from safer_steer.actors.assistant import ChatAssistant
from safer_steer.actors.chat import ChatModel, Sampling
from safer_steer.dialogue import AnswerFormat
from safer_steer.prompts import load_prompt


class LlmBlue(ChatAssistant):
    """Answers as the student should learn to, in the student's own answer format."""

    def __init__(
        self,
        model: ChatModel,
        sampling: Sampling | None = None,
        *,
        answer_format: AnswerFormat = AnswerFormat.PLAIN,
        seed: int = 0,
    ) -> None:
        system, _ = load_prompt("blue_guidelines").render(tagged=answer_format is AnswerFormat.TAGGED)
        chosen = Sampling(temperature=0.0, max_tokens=2048) if sampling is None else sampling
        super().__init__(model, chosen, answer_format=answer_format, system=system, seed=seed)
