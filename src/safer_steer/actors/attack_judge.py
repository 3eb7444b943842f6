"""The attack judge on any chat model: 1 hard refusal … 5 full leak, for Stage I's success filter."""

from __future__ import annotations

from safer_steer.actors.chat import ChatModel, Message, Sampling
from safer_steer.actors.judge import JUDGING, RubricJudge
from safer_steer.actors.showing import case_values, dialogue_fence, messages_for
from safer_steer.dialogue import History
from safer_steer.prompts import load_prompt
from safer_steer.verdict import ATTACK


class AttackJudge(RubricJudge):
    """A `RubricJudge` on the `ATTACK` scale that is told what the script's seed was after."""

    def __init__(self, model: ChatModel, *, sampling: Sampling = JUDGING) -> None:
        super().__init__(model, prompt=load_prompt("attack_judge"), scale=ATTACK, sampling=sampling)

    def _messages(self, history: History, answer: str) -> list[Message]:
        question = history.script.question
        goal = None if question is None else dialogue_fence(history.script).wrap("goal", question)
        return messages_for(self._prompt, history.images, goal=goal, **case_values(history, answer))
