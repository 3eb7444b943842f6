"""Choosing the next token, row by row: what a row draws does not depend on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row chooses: greedy at temperature 0, else by the uniform number `u` in [0, 1)."""

    temperature: float
    top_p: float
    u: float


def choose(logits: Tensor, draws: Sequence[Draw], banned: Tensor) -> tuple[list[int], list[float]]:
    """The next token of each row and its log-probability, from `logits` (rows, vocabulary).

    The policy is `softmax(logits / temperature)` over the tokens that are not `banned` (temperature 1 where greedy).
    `top_p` narrows what can be drawn, not the log-probability, which stays the policy's.
    """
    logits = logits.float()
    temperatures = logits.new_tensor([draw.temperature if draw.temperature > 0 else 1.0 for draw in draws])
    policy = log_policy(logits, temperatures[:, None], banned)
    drawing = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if len(drawing) == len(draws):
        tokens = _draw(policy.exp(), draws)
    else:
        tokens = policy.argmax(-1)
        tokens[drawing] = _draw(policy[drawing].exp(), [draws[row] for row in drawing])
    chosen = policy.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def log_policy(logits: Tensor, temperature: float | Tensor, banned: Tensor) -> Tensor:
    """Log-probabilities (…, vocabulary) of the sampling policy: banned tokens out, then the temperature."""
    allowed = (logits.float() / temperature).index_fill_(-1, banned, -torch.inf)
    return torch.log_softmax(allowed, -1)


def _draw(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """One token per row by inverting the cumulative distribution at `u`."""
    for row, draw in enumerate(draws):
        if draw.top_p < 1:
            probabilities[row] = nucleus(probabilities[row], draw.top_p)
    return inverted(probabilities, torch.tensor([draw.u for draw in draws], dtype=torch.float64))


def inverted(probabilities: Tensor, u: Tensor) -> Tensor:
    """(rows,) the first token whose cumulative mass exceeds the share `u` (rows,) of the whole, of `probabilities`
    (rows, vocabulary); a token of no mass is never drawn.

    First the block of `BLOCK` tokens is found, then the token in it: nothing as wide as the vocabulary is added up in
    double precision.

    >>> inverted(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), torch.tensor([0.5, 0.0]))
    tensor([2, 1])
    """
    if not len(probabilities):
        return torch.empty(0, dtype=torch.long, device=probabilities.device)
    missing = -probabilities.shape[-1] % BLOCK
    blocks = functional.pad(probabilities, (0, missing)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).double().cumsum(-1)
    mark = u.to(sums)[:, None] * sums[:, -1:]
    block = _exceeding(sums, mark)
    before = sums.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    inside = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]].double().cumsum(-1)
    return (block * BLOCK + _exceeding(inside, mark - before))[:, 0]


def _exceeding(cumulative: Tensor, mark: Tensor) -> Tensor:
    """(rows, 1) the first place whose cumulative mass exceeds `mark` (rows, 1), or, where rounding put the mark beyond
    all mass, the last one that has any."""
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, mark.clamp(min=0), right=True), last)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose mass reaches `top_p`, zero the rest (not renormalised).

    >>> nucleus(torch.tensor([0.5, 0.3, 0.2]), 0.6)
    tensor([0.5000, 0.3000, 0.0000])
    """
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    keep = torch.zeros_like(probabilities, dtype=torch.bool)
    keep[order] = before < top_p
    keep[order[0]] = True
    return probabilities * keep
