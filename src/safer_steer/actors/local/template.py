"""A chat template taken apart: what stands before, between and after the texts of a dialogue, as token ids.

The template is rendered once with marks in the places of the texts and cut at the marks; whole dialogues are then
laid out from the pieces. `learn_pieces` proves on a real dialogue that the pieces give the template's own tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from safer_steer.errors import WeightsError

Ids = tuple[int, ...]
Render = Callable[[list[dict[str, Any]], bool], str]
"""`render(messages, add_generation_prompt)`: the template's text."""

_SYSTEM, _FIRST, _ANSWER, _SECOND = "mark-system", "mark-first", "mark-answer", "mark-second"


@dataclass(frozen=True, slots=True)
class Pieces:
    """The ids around the texts.

    `opening USER header ANSWER turn USER header ANSWER …`; with a system prompt `system_opening SYSTEM
    system_closing` stands in `opening`'s place. `turn` begins with the token that ends an answer. `image` is the
    text that stands before a user's text for each image (None: the template knows no images).
    """

    opening: Ids
    header: Ids
    turn: Ids
    system_opening: Ids | None
    system_closing: Ids | None
    image: str | None

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.turn[0]


def learn_pieces(render: Render, encode: Callable[[str], Ids], where: str) -> Pieces:
    """Take the template behind `render` apart; `encode` tokenises text with its control tokens.

    Raises `WeightsError` when the template is not of the form that `Pieces` describes, or when the pieces' tokens,
    joined, are not the tokens of the whole.
    """
    blocks = _takes_blocks(render)

    def say(role: str, text: str, images: int = 0) -> dict[str, Any]:
        if not blocks:
            return {"role": role, "content": text}
        return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}

    dialogue = [say("user", _FIRST), say("assistant", _ANSWER), say("user", _SECOND)]
    opening, _, turn, header = _cut(render(dialogue, True), (_FIRST, _ANSWER, _SECOND), where)
    system_opening, system_closing = _system(render, [say("system", _SYSTEM), say("user", _FIRST)], encode, where)
    image = _image(render, say("user", _FIRST), say("user", _FIRST, images=1), where) if blocks else None
    pieces = Pieces(
        opening=encode(opening),
        header=encode(header),
        turn=encode(turn),
        system_opening=system_opening,
        system_closing=system_closing,
        image=image,
    )
    probe = ("Hello there, what is 2 + 2?", "It is 4.", "Thanks! And\n\nhow about 3 × 3?")
    whole = render([say("user", probe[0]), say("assistant", probe[1]), say("user", probe[2])], True)
    first, answer, second = (encode(text) for text in probe)
    joined = pieces.opening + first + pieces.header + answer + pieces.turn + second + pieces.header
    if joined != encode(whole):
        raise WeightsError("the chat template does not tokenise piece by piece", where=where, hint="use an endpoint")
    return pieces


def _takes_blocks(render: Render) -> bool:
    """Whether the template wants contents as lists of blocks rather than strings."""
    message = {"role": "user", "content": [{"type": "text", "text": _FIRST}]}
    try:
        text = render([message], True)
    except (TemplateError, TypeError):
        return False
    return _FIRST in text and "'text'" not in text


def _cut(text: str, marks: Sequence[str], where: str) -> list[str]:
    """`text` cut at the marks, each of which must stand in it once, in order."""
    pieces = re.split("|".join(map(re.escape, marks)), text)
    if re.findall("|".join(map(re.escape, marks)), text) != list(marks):
        raise WeightsError("the chat template does not show every message once, in order", where=where)
    return pieces


def _system(
    render: Render, messages: list[dict[str, Any]], encode: Callable[[str], Ids], where: str
) -> tuple[Ids, Ids] | tuple[None, None]:
    try:
        text = render(messages, False)
    except TemplateError:
        return None, None
    if text.count(_SYSTEM) != 1:
        return None, None
    opening, closing, _ = _cut(text, (_SYSTEM, _FIRST), where)
    return encode(opening), encode(closing)


def _image(render: Render, bare: dict[str, Any], shown: dict[str, Any], where: str) -> str | None:
    """What one image adds before the user's text."""
    opening, _ = _cut(render([bare], False), (_FIRST,), where)
    with_image, _ = _cut(render([shown], False), (_FIRST,), where)
    return with_image.removeprefix(opening) or None
