"""Choosing the next token, row by row: what a row draws does not depend on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    tokens = policy.argmax(-1)
    drawing = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if drawing:
        tokens[drawing] = _draw(policy[drawing].exp(), [draws[row] for row in drawing])
    chosen = policy.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def log_policy(logits: Tensor, temperature: float | Tensor, banned: Tensor) -> Tensor:
    """Log-probabilities (…, vocabulary) of the sampling policy: banned tokens out, then the temperature."""
    allowed = (logits.float() / temperature).index_fill(-1, banned, -torch.inf)
    return torch.log_softmax(allowed, -1)


def _draw(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """One token per row by inverting the cumulative distribution at `u`."""
    for row, draw in enumerate(draws):
        if draw.top_p < 1:
            probabilities[row] = nucleus(probabilities[row], draw.top_p)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    u = cumulative.new_tensor([draw.u for draw in draws])
    # right=True: the first token whose cumulative mass exceeds the mark, so a token of no mass is never drawn.
    return torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0]


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
