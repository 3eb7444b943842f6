"""How a dialogue is shown to a model that judges or steers it: fenced text, and the images with it."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.actors.chat import Message, Role
from safer_steer.dialogue import Exchange, History, ImageRef, Script
from safer_steer.prompts import Fence, Prompt


def dialogue_fence(script: Script) -> Fence:
    """One fence per script, so that later turns of a dialogue share their prompt's beginning with earlier ones."""
    return Fence.for_dialogue(script.id, script.seed_id, *(turn.text for turn in script.turns))


def shown_history(fence: Fence, exchanges: Sequence[Exchange]) -> str:
    """The exchanges in order; an answer that was never shown to the user says so."""
    lines = []
    for exchange in exchanges:
        lines.append(fence.wrap(f"user-{exchange.index}", exchange.user))
        lines.append(fence.wrap(f"assistant-{exchange.index}", exchange.answer.text or "(no answer was shown)"))
    return "\n".join(lines)


def case_values(history: History, answer: str) -> dict[str, object]:
    """What a judging prompt needs: `history`, `request`, `answer`, `image_count`; every text fenced."""
    fence = dialogue_fence(history.script)
    return {
        "history": shown_history(fence, history.exchanges),
        "request": fence.wrap("request", history.user),
        "answer": fence.wrap("answer", answer),
        "image_count": len(history.images),
    }


def messages_for(prompt: Prompt, images: tuple[ImageRef, ...], **values: object) -> list[Message]:
    """A rendered prompt as a system and a user message, the images in the latter."""
    system, user = prompt.render(**values)
    return [Message(role=Role.SYSTEM, text=system), Message(role=Role.USER, text=user, images=images)]
