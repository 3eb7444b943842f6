"""Dialogues of different lengths to tensors, with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from safer_steer.actors.local import DialogueTokenizer
from safer_steer.dialogue import ImageRef

T = TypeVar("T")


class Dialogue(Protocol):
    """What training needs of a dialogue: ids, the assistant's mask over them, the images of its places in order."""

    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def mask(self) -> tuple[bool, ...]: ...
    @property
    def images(self) -> tuple[ImageRef, ...]: ...


D = TypeVar("D", bound=Dialogue)


@dataclass(frozen=True, slots=True)
class Tokens:
    """B dialogues padded on the right to the longest, L, with N assistant tokens among them.

    `ids` (B, L); `targets` (B, L − 1) is True where the next token is the assistant's: position i of a row predicts
    id i + 1. `images` go to the model with the ids, in reading order of the batch. Padding stands on the right and
    attention is causal, so no token sees it and no attention mask is needed.
    """

    ids: Tensor
    targets: Tensor
    images: dict[str, Tensor]

    @property
    def next_ids(self) -> Tensor:
        """(N,) the assistant's tokens, row by row: what the N predictions should have been."""
        return self.ids[:, 1:][self.targets]


def tokens_of(dialogues: Sequence[Dialogue], tokenizer: DialogueTokenizer, device: torch.device) -> Tokens:
    """The dialogues as one padded batch on `device`; the padding is the end token, which nothing predicts there.

    Raises ValueError when a dialogue's places for images are not those of its images: none may vanish.
    """
    refs = [ref for dialogue in dialogues for ref in dialogue.images]
    for dialogue in dialogues:
        _check_places(dialogue, tokenizer)
    images = tokenizer.images.tensors(refs) if tokenizer.images is not None and refs else {}
    ids = torch.tensor(pad([dialogue.ids for dialogue in dialogues], tokenizer.end))
    if "image_grid_thw" in images:  # positions in two dimensions: the model wants to know where the images are
        images["mm_token_type_ids"] = torch.isin(ids, torch.tensor([tokenizer.image_token])).int()
    return Tokens(
        ids=ids.to(device),
        targets=torch.tensor(pad([dialogue.mask[1:] for dialogue in dialogues], False), device=device),
        images={key: tensor.to(device) for key, tensor in images.items()},
    )


def _check_places(dialogue: Dialogue, tokenizer: DialogueTokenizer) -> None:
    reader, token = tokenizer.images, tokenizer.image_token
    places = dialogue.ids.count(token) if token is not None else 0
    needed = sum(reader.read(ref).ids.count(token) for ref in dialogue.images) if reader and token is not None else 0
    if places != needed:
        raise ValueError(f"{places} image places in a dialogue whose {len(dialogue.images)} images fill {needed}")


def answer_tokens(dialogues: Sequence[Dialogue]) -> int:
    """How many tokens of the dialogues are trained."""
    return sum(sum(dialogue.mask) for dialogue in dialogues)


def micro_batches(dialogues: Sequence[D], size: int) -> list[list[D]]:
    """The dialogues in batches of at most `size`, neighbours in length together, so that little is padded."""
    ordered = sorted(dialogues, key=lambda dialogue: len(dialogue.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def pad(rows: Sequence[Sequence[T]], filler: T) -> list[list[T]]:
    """Rows of equal length, filled up on the right.

    >>> pad([[1, 2], [3]], 0)
    [[1, 2], [3, 0]]
    """
    longest = max(len(row) for row in rows)
    return [[*row, *([filler] * (longest - len(row)))] for row in rows]
