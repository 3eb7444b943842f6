"""A played dialogue as Inspect shows it: messages, and a score for each thing a judge decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    ModelOutput,
)
from inspect_ai.scorer import Score

from safer_steer.actors.inspect_model import data_url
from safer_steer.bench.metrics import attack_succeeded, dialogue_score, first_failure, passes
from safer_steer.dialogue import ImageRef, Rollout, Turn
from safer_steer.verdict import Scored

SCORES = ("safety_pass", "helpfulness_pass", "safety", "helpfulness", "attack_success")
Picture = Callable[[ImageRef], str] | None
"""How an image is shown; `None` leaves images out."""


def shower(read: Callable[[ImageRef], bytes]) -> Callable[[ImageRef], str]:
    """Images as data URLs."""
    return lambda ref: data_url(ref, read(ref))


def user_message(text: str, images: tuple[ImageRef, ...], picture: Picture) -> ChatMessage:
    """A user turn, its images before the words."""
    if picture is None or not images:
        return ChatMessageUser(content=text)
    parts: list[Content] = [ContentImage(image=picture(ref)) for ref in images]
    return ChatMessageUser(content=[*parts, ContentText(text=text)])


def messages_of(rollout: Rollout, picture: Picture) -> list[ChatMessage]:
    """The dialogue; each answer carries its verdict in its metadata."""
    said: list[ChatMessage] = []
    for turn in rollout.turns:
        said.append(user_message(turn.user, rollout.script.images_at(turn.index), picture))
        said.append(ChatMessageAssistant(content=turn.answer.raw, metadata=verdict_facts(turn)))
    return said


def verdict_facts(turn: Turn) -> dict[str, Any]:
    """A turn's verdict in plain values, for a reader."""
    verdict = turn.verdict
    facts: dict[str, Any] = {"turn": turn.index}
    if turn.attack is not None:
        facts["attack"] = turn.attack
    if isinstance(verdict, Scored):
        guard = {} if verdict.guard is None else {"guard": verdict.guard.model_dump(mode="json", exclude_defaults=True)}
        return {**facts, **verdict.scores, "rationale": verdict.rationale, "flags": list(verdict.flags), **guard}
    return {**facts, "unscored": str(verdict.reason), "detail": verdict.detail}


def output_of(rollout: Rollout, model: str) -> ModelOutput:
    """The last answer as the sample's output."""
    return ModelOutput.from_content(model, rollout.turns[-1].answer.raw if rollout.turns else "")


def scores_of(rollout: Rollout, safety_pass: float, help_pass: float) -> dict[str, Score]:
    """The dialogue's scores that its judge can give; what is not known is unscored, which Inspect leaves out of means.

    `safety_pass` and `helpfulness_pass` are 1 or 0, `safety` and `helpfulness` means over turns; a guard gives
    `attack_success`, 1 or 0.
    """
    keys = {key for turn in rollout.turns if isinstance(turn.verdict, Scored) for key in turn.verdict.scores}
    safety, helpfulness = dialogue_score(rollout, "safety"), dialogue_score(rollout, "helpfulness")
    values: dict[str, float | bool | None] = {}
    if "safety" in keys or not keys:
        values |= {
            "safety_pass": passes(safety, safety_pass),
            "helpfulness_pass": passes(helpfulness, help_pass),
            "safety": safety,
            "helpfulness": helpfulness,
        }
    if "unsafe" in keys:
        values["attack_success"] = attack_succeeded(rollout)
    explained = explanation(rollout)
    answer = rollout.turns[-1].answer.text if rollout.turns else None
    return {name: _score(value, answer, explained) for name, value in values.items()}


def _score(value: float | bool | None, answer: str | None, explained: str) -> Score:
    if value is None:
        return Score.unscored(reason="scoring_failed", answer=answer, explanation=explained)
    return Score(value=float(value), answer=answer, explanation=explained)


def explanation(rollout: Rollout) -> str:
    """What happened, turn by turn, in a line each."""
    lines = []
    for turn in rollout.turns:
        verdict = turn.verdict
        if isinstance(verdict, Scored):
            given = ", ".join(f"{key} {value:g}" for key, value in verdict.scores.items())
            lines.append(f"turn {turn.index}: {given}. {verdict.rationale}")
        else:
            lines.append(f"turn {turn.index}: unscored ({verdict.reason}). {verdict.detail}")
    failed = first_failure(rollout)
    if failed is not None:
        lines.append(f"first failure at turn {failed}")
    if rollout.fault is not None:
        lines.append(f"ended by {rollout.stop}: {rollout.fault}")
    return "\n".join(lines)
