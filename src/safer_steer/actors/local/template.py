"""A chat template taken apart: what stands before, between and after the texts of a dialogue, as token ids.

The template is rendered once with marks in the places of the texts and cut at the marks; whole dialogues are then
laid out from the pieces. `learn_pieces` proves on a real dialogue that the pieces give the template's own tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from safer_steer.errors import WeightsError

Ids = tuple[int, ...]
Render = Callable[[list[dict[str, Any]], bool], str]
"""`render(messages, add_generation_prompt)`: the template's text."""

_SYSTEM, _FIRST, _ANSWER, _SECOND = "mark-system", "mark-first", "mark-answer", "mark-second"


@dataclass(frozen=True, slots=True)
class Lead:
    """What stands before a user's text: `bare` where the turn has no image, `shown` before its first image."""

    bare: Ids
    shown: Ids


@dataclass(frozen=True, slots=True)
class Pieces:
    """The ids around the texts.

    `opening USER header ANSWER turn USER header ANSWER …`; with a system prompt `system_opening SYSTEM
    system_closing` stands in `opening`'s place. `turn` begins with `end`, the token that ends an answer. `image` is
    the text that stands before a user's text for each image (None: the template knows no images). `gap`,
    `answer_gap` and `system_gap` are spaces that the template puts before a text: they are tokenised with it, as one
    word (a user's text after an image has none).
    """

    opening: Lead
    header: Ids
    turn: Lead
    end: int
    system_opening: Ids | None
    system_closing: Lead | None
    image: str | None
    gap: str = ""
    answer_gap: str = ""
    system_gap: str = ""


def learn_pieces(
    render: Render, encode: Callable[[str], Ids], where: str, *, control: Container[int], eos: int | None
) -> Pieces:
    """Take the template behind `render` apart; `encode` tokenises text with its control tokens.

    A template whose answers end with no `control` token (LLaVA 1.5) gets `eos` for it. Raises `WeightsError` when
    the template is not of the form that `Pieces` describes, or when the pieces' tokens, joined, are not the tokens
    of the whole.
    """
    blocks = _takes_blocks(render)

    def say(role: str, text: str, images: int = 0) -> dict[str, Any]:
        if not blocks:
            return {"role": role, "content": text}
        return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}

    def dialogue(images: int) -> list[dict[str, Any]]:
        return [say("user", _FIRST, images), say("assistant", _ANSWER), say("user", _SECOND, images)]

    marks = (_FIRST, _ANSWER, _SECOND)
    opening, said, turn, header = _cut(render(dialogue(0), True), marks, where)
    shown = _cut(render(dialogue(1), True), marks, where) if blocks else (opening, said, turn, header)
    same = next((n for n, pair in enumerate(zip(opening, shown[0], strict=False)) if pair[0] != pair[1]), len(opening))
    image = shown[0][same:] or None

    def lead(bare: str, with_image: str) -> tuple[str, str]:
        return bare.rstrip(" "), with_image.removesuffix(image) if image else bare

    gap = opening[len(opening.rstrip(" ")) :]
    starts, turns = lead(opening, shown[0]), lead(turn, shown[2])
    ending = encode(turns[0])[:1]
    inserted = () if eos is None or ending[0] in control else (eos,)
    system = _system(render, say, blocks, where)
    pieces = Pieces(
        opening=Lead(encode(starts[0]), encode(starts[1])),
        header=encode(header),
        turn=Lead(inserted + encode(turns[0]), inserted + encode(turns[1])),
        end=(inserted or ending)[0],
        system_opening=None if system is None else encode(system[0].rstrip(" ")),
        system_closing=None if system is None else Lead(*map(encode, lead(system[1], system[2]))),
        image=image,
        gap=gap,
        answer_gap=said.removeprefix(header) if said.startswith(header) else "",
        system_gap=" " if system is not None and system[0].endswith(" ") else "",
    )
    _prove(pieces, inserted, encode, lambda *texts: render(_alternating(say, texts), True), where)
    return pieces


def _prove(pieces: Pieces, inserted: Ids, encode: Callable[[str], Ids], whole: Callable[..., str], where: str) -> None:
    """Raise `WeightsError` unless the pieces give the tokens of a whole dialogue (without what we inserted)."""
    probe = ("Hello there, what is 2 + 2?", "It is 4.", "Thanks! And\n\nhow about 3 × 3?")
    first, answer, second = (
        encode(gap + text) for gap, text in zip((pieces.gap, pieces.answer_gap, pieces.gap), probe, strict=True)
    )
    turn = pieces.turn.bare[len(inserted) :]
    joined = pieces.opening.bare + first + pieces.header + answer + turn + second + pieces.header
    if joined != encode(whole(*probe)):
        raise WeightsError("the chat template does not tokenise piece by piece", where=where, hint="use an endpoint")


def _alternating(say: Callable[..., dict[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [say("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]


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
    render: Render, say: Callable[..., dict[str, Any]], blocks: bool, where: str
) -> tuple[str, str, str] | None:
    """What stands before a system prompt, after it, and after it where an image follows; None: it takes none."""
    try:
        text = render([say("system", _SYSTEM), say("user", _FIRST)], False)
        shown = render([say("system", _SYSTEM), say("user", _FIRST, int(blocks))], False)
    except TemplateError:
        return None
    if text.count(_SYSTEM) != 1:
        return None
    opening, closing, _ = _cut(text, (_SYSTEM, _FIRST), where)
    return opening, closing, _cut(shown, (_SYSTEM, _FIRST), where)[1]
