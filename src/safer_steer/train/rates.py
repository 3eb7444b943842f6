"""The learning rate over the steps of a training."""

from __future__ import annotations

import torch


def rate_share(step: int, total: int, warmup_share: float) -> float:
    """The share of the learning rate at `step` (from 1): up in a line over the warm-up, then down in a line.

    >>> [round(rate_share(step, 5, 0.4), 2) for step in range(1, 6)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = max(1, round(total * warmup_share))
    return step / warmup if step <= warmup else 1 - (step - warmup) / (total - warmup + 1)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of `optimizer` take `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
