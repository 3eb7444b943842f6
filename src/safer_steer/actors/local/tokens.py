"""Dialogues as token ids, by concatenation: what was once read or written is never tokenised again.

A dialogue is `context_1 response_1 context_2 response_2 …`. An answer that carries a `TokenTrace` is taken
literally; one without (another model wrote it) is tokenised from its text by the same pieces. What users and
tutors type cannot become a control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safer_steer.actors.chat import Message, Role
from safer_steer.actors.local.images import ImageReader
from safer_steer.actors.local.template import Ids, Lead, Pieces, learn_pieces
from safer_steer.dialogue import ImageRef
from safer_steer.errors import ConfigError, WeightsError
from safer_steer.image_store import ImageStore


@dataclass(frozen=True, slots=True)
class Part:
    """A run of ids that one side wrote: the context before an answer (`answer=False`) or the answer itself.

    `images` are those whose places lie in these ids, in order.
    """

    ids: Ids
    answer: bool
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A dialogue's parts: contexts and answers by turns."""

    parts: tuple[Part, ...]

    @property
    def ids(self) -> Ids:
        """The whole sequence."""
        return tuple(token for part in self.parts for token in part.ids)

    @property
    def answer_mask(self) -> tuple[bool, ...]:
        """One flag per id: whether the assistant wrote it (its end token included).

        >>> Layout((Part((5, 6), False), Part((7, 2), True))).answer_mask
        (False, False, True, True)
        """
        return tuple(part.answer for part in self.parts for _ in part.ids)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every image, in the order of their places."""
        return tuple(image for part in self.parts for image in part.images)

    @property
    def answer_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each answer in `ids`.

        >>> Layout((Part((5, 6), False), Part((7, 2), True), Part((8,), False), Part((9,), True))).answer_spans
        ((2, 4), (5, 6))
        """
        spans, start = [], 0
        for part in self.parts:
            if part.answer:
                spans.append((start, start + len(part.ids)))
            start += len(part.ids)
        return tuple(spans)


class DialogueTokenizer:
    """Lays dialogues out as ids for one model: its tokenizer, its template's pieces, its images.

    `end` is the token that ends an answer, `control` every special token, `banned` those an answer may not hold,
    `image_token` the one whose places an image fills.
    """

    def __init__(self, tokenizer: Any, pieces: Pieces, images: ImageReader | None, image_token: str | None) -> None:
        self._tokenizer, self._pieces, self._images = tokenizer, pieces, images
        strings = control_strings(tokenizer, image_token)
        self.control = frozenset(tokenizer.convert_tokens_to_ids(sorted(strings)))
        self.end = pieces.end
        self.image_token = tokenizer.convert_tokens_to_ids(image_token) if image_token else None
        self.banned = tuple(sorted(self.control - {self.end}))
        # Longest first, so that one control token inside another does not hide it. A single character cannot be cut.
        cuttable = sorted((s for s in strings if len(s) > 1), key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, cuttable)))

    @classmethod
    def of(cls, processor: Any, images: ImageStore | None = None) -> DialogueTokenizer:
        """Learn the template of a processor (vision-language) or a tokenizer (text only).

        Raises `WeightsError` when there is no chat template, or it cannot be taken apart.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        name = str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__

        if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
            raise WeightsError("has no chat template", where=name, hint="use an instruction-tuned model")

        def render(messages: list[dict[str, Any]], prompt: bool) -> str:
            return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

        def encode(text: str) -> Ids:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        image_token = getattr(processor, "image_token", None)
        control = tokenizer.convert_tokens_to_ids(sorted(control_strings(tokenizer, image_token)))
        pieces = learn_pieces(render, encode, name, control=control, eos=tokenizer.eos_token_id)
        reader = None
        if pieces.image is not None and images is not None and processor is not tokenizer:
            reader = ImageReader(processor, images, pieces.image)
        return cls(tokenizer, pieces, reader, image_token)

    @property
    def images(self) -> ImageReader | None:
        """Reads images for this model, or None when it sees none."""
        return self._images

    def encode(self, text: str, gap: str = "") -> Ids:
        """Ids of what somebody typed: plain text, whatever it looks like. Surrounding white space is dropped, and
        `gap` put before what is left."""
        pieces = list(self._without_control(gap + text.strip()))
        encoded = self._tokenizer(pieces, add_special_tokens=False).input_ids if pieces else []
        return tuple(token for piece in encoded for token in piece if token not in self.control)

    def _without_control(self, text: str) -> Iterator[str]:
        """`text` cut inside everything that looks like a control token, so that none is recognised."""
        start = 0
        while match := self._control_text.search(text, start):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        if text[start:]:
            yield text[start:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its control tokens."""
        words = [token for token in ids if token not in self.control]
        return str(self._tokenizer.decode(words, clean_up_tokenization_spaces=False))

    def lay_out(self, messages: Sequence[Message]) -> Layout:
        """The whole dialogue: `[system] (user assistant)* [user]`.

        If it ends with a user turn, the last part is the context of the answer to come; if with an answer (SFT),
        that answer and its end token.

        Raises `ConfigError` for a system prompt or an image that the model's template does not know, `ImageError`
        for an image that cannot be read, ValueError for roles out of order.
        """
        turns = list(messages)
        opening: Lead = self._pieces.opening
        if turns and turns[0].role is Role.SYSTEM:
            opening = self._system(turns.pop(0).text)
        parts: list[Part] = []
        for position, message in enumerate(turns):
            if message.role is not (Role.ASSISTANT if position % 2 else Role.USER):
                raise ValueError(f"message {position + 1} is from the {message.role}: user and assistant take turns")
            if message.role is Role.USER:
                lead = self._lead(opening, parts, bool(message.images))
                follows = turns[position + 1] if position + 1 < len(turns) else None
                parts.append(self._context(lead, message, follows))
            else:
                parts.append(Part(self._response(message), answer=True))
        return Layout(tuple(parts))

    def _system(self, text: str) -> Lead:
        if self._pieces.system_opening is None or self._pieces.system_closing is None:
            hint = "leave system_prompt empty and answer_format plain"
            raise ConfigError("this model's chat template takes no system prompt", hint=hint)
        before = self._pieces.system_opening + self.encode(text, self._pieces.system_gap)
        closing = self._pieces.system_closing
        return Lead(before + closing.bare, before + closing.shown)

    def _lead(self, opening: Lead, parts: Sequence[Part], images: bool) -> Ids:
        """From the last response (or the beginning) to the user's text or images; closes an answer that was cut off."""
        if not parts:
            return opening.shown if images else opening.bare
        lead = self._pieces.turn.shown if images else self._pieces.turn.bare
        return lead[1:] if parts[-1].ids[-1:] == (self.end,) else lead

    def _context(self, lead: Ids, message: Message, follows: Message | None) -> Part:
        if follows is not None and follows.trace is not None:
            return Part(follows.trace.context, answer=False, images=message.images)
        places = tuple(self._places(message.images))
        gap = "" if message.images else self._pieces.gap
        ids = lead + places + self.encode(message.text, gap) + self._pieces.header
        return Part(ids, answer=False, images=message.images)

    def _places(self, images: Iterable[ImageRef]) -> Iterator[int]:
        for image in images:
            if self._images is None:
                raise ConfigError("this model sees no images", hint="choose a vision-language model")
            yield from self._images.read(image).ids

    def _response(self, message: Message) -> Ids:
        if message.trace is not None:
            return message.trace.response
        return (*self.encode(message.text, self._pieces.answer_gap), self.end)


def control_strings(tokenizer: Any, image_token: str | None) -> set[str]:
    """Every text that `tokenizer` reads as a token of its own kind: special tokens, and the image's place."""
    strings = {str(token) for token in tokenizer.all_special_tokens}
    strings |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return strings | ({image_token} if image_token else set())
