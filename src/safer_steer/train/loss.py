"""The losses, on the assistant's tokens alone, without a logit that is not needed.

SFT: the mean of −log π over the batch's answer tokens. GRPO: per token, with ρ = π / π_old,

    −min(ρ·A, clip(ρ, 1−ε, 1+ε)·A) + β·(exp(log π_ref − log π) − (log π_ref − log π) − 1)

The first part has at ρ = 1 the gradient of the paper's `−A·log π`. The second is an unbiased estimate of β·KL(π‖π_ref)
in its value, but its gradient on sampled tokens is in expectation that of β·KL(π_ref‖π): the penalty of GRPO and TRL,
which draws π to where the reference is, not the exact gradient of the paper's term. `Normalise` says how tokens are
added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from safer_steer.actors.cores import take_share
from safer_steer.actors.local import log_policy, product
from safer_steer.train.batch import Tokens

CHUNK = 512
"""How many positions get their vocabulary-wide logits at a time (100 MB each at 49k words, 312 MB at 152k)."""


def token_logprobs(
    model: nn.Module,
    tokens: Tokens,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    owner: nn.Module | None = None,
) -> Tensor:
    """(N,) log-probabilities of the assistant's tokens under `softmax(logits / temperature)` without `banned`.

    The language model's head sees only the N positions that predict them, `CHUNK` at a time, and no logits are kept
    for the way back: a head that does not learn makes the gradient at once, another one computes them again.
    `owner` has the head where `model` is wrapped.
    """
    take_share()
    head = _head(model if owner is None else owner)
    hidden = _last_hidden(model, head, tokens)[:, :-1][tokens.targets]
    nowhere = torch.empty(0, dtype=torch.long, device=hidden.device) if banned is None else banned

    def score(states: Tensor, ids: Tensor) -> Tensor:
        return log_policy(head(states), temperature, nowhere).gather(-1, ids[:, None])[:, 0]

    chunks = zip(hidden.split(CHUNK), tokens.next_ids.split(CHUNK), strict=True)
    if torch.is_grad_enabled() and owner is None and _is_fixed(head):  # a wrapper may keep weights in pieces
        scores = [_FixedHead.apply(states, ids, head.weight, temperature, nowhere) for states, ids in chunks]
        return torch.cat(scores)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(score, states, ids, use_reentrant=False) for states, ids in chunks])
    return torch.cat([score(states, ids) for states, ids in chunks])


class _FixedHead(torch.autograd.Function):
    """(n,) log-probabilities of `ids` (n,) from `states` (n, width) through a head `weight` (vocabulary, width) that
    does not learn.

    The gradient towards a state depends on its own logits alone, ∂ log π(i) / ∂h = (w_i − Σ_j π(j)·w_j) / temperature,
    so it is made while they are there and only scaled on the way back.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, ids: Tensor, weight: Tensor, temperature: float, banned: Tensor) -> Tensor:
        policy = log_policy(product(states, weight), temperature, banned)
        scores = policy.gather(-1, ids[:, None])[:, 0]
        if ctx.needs_input_grad[0]:
            expected = product(policy.exp_(), weight.t())
            ctx.save_for_backward((weight[ids] - expected) / temperature)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (towards_states,) = ctx.saved_tensors
        return gradients[0][:, None] * towards_states, None, None, None, None


def _is_fixed(head: Any) -> bool:
    """Whether the head is a plain matrix in fp32 that does not learn."""
    if not isinstance(head, nn.Linear) or head.bias is not None or torch.is_autocast_enabled(head.weight.device.type):
        return False
    return not head.weight.requires_grad and head.weight.dtype is torch.float32


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss of a micro-batch (its share of the batch's) and what to watch: sums over its N tokens, detached."""

    loss: Tensor
    kl: float
    clipped: int


def policy_loss(
    logprobs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip: float,
    beta: float,
) -> PolicyLoss:
    """GRPO's loss from N tokens' log-probabilities (now, under the old policy, under the reference) and advantages.

    Without a `reference` there is no KL term, whatever β.
    """
    ratio = (logprobs - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    divergence = torch.zeros_like(logprobs) if reference is None else kl_k3(logprobs, reference)
    loss = ((beta * divergence - surrogate) * weights).sum()
    with torch.no_grad():
        outside = ((ratio - 1).abs() > clip) & ((ratio > 1) == (advantages > 0))
        return PolicyLoss(loss=loss, kl=float(divergence.sum()), clipped=int(outside.sum()))


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """GRPO's estimate of KL(π‖π_ref) per token, `exp(d) − d − 1` with d = log π_ref − log π: unbiased, never negative.

    Its mean gradient over tokens that π sampled is that of KL(π_ref‖π): how likely a token is to be sampled is not
    differentiated.

    >>> kl_k3(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.])
    """
    difference = reference - logprobs
    return difference.exp() - difference - 1


def _head(model: Any) -> nn.Module:
    """The language model's head, behind adapters or not."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings")
    return head


def _last_hidden(model: nn.Module, head: nn.Module, tokens: Tokens) -> Tensor:
    """(B, L, width) what the head would be given; the head itself computes a single position."""
    with _watch(head) as seen:
        model(input_ids=tokens.ids, use_cache=False, **tokens.images)
    (hidden,) = seen
    return hidden


@contextmanager
def _watch(head: nn.Module) -> Iterator[list[Tensor]]:
    """Catch what goes into `head`, and let it compute only the first position of it."""
    seen: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0])
        return (inputs[0][:, :1].detach(),)

    handle = head.register_forward_pre_hook(catch)
    try:
        yield seen
    finally:
        handle.remove()
