"""The policy update of a GRPO step: the groups' trajectories to one (or a few) optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from safer_steer.actors.local import DialogueTokenizer
from safer_steer.config import GrpoConfig, OldPolicy
from safer_steer.reward import dialogue_weights
from safer_steer.train.batch import Tokens, answer_tokens, micro_batches, tokens_of
from safer_steer.train.loss import PolicyLoss, policy_loss, token_logprobs
from safer_steer.train.merged import merged_adapters
from safer_steer.train.policy import Policy, descend
from safer_steer.train.trajectory import Group, Trajectory
from safer_steer.train.trunk import Trunk


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did: of the last optimiser step the loss, gradient norm, and per-token means of KL and the
    share clipped; of the first one, where nothing was learned yet, the rollout's numerical `drift`."""

    loss: float
    grad_norm: float
    kl: float
    clipped: float
    drift: float
    tokens: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A micro-batch on the device, N answer tokens; one number per token. `trunk`: see `Trunk.recording`."""

    tokens: Tokens
    sampled: Tensor
    advantages: Tensor
    weights: Tensor
    reference: Tensor | None
    trunk: list[Any]


class Updater:
    """Turns groups into optimiser steps. `banned` are the tokens that the sampling policy cannot write."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        tokenizer: DialogueTokenizer,
        banned: Sequence[int],
        config: GrpoConfig,
    ) -> None:
        self._policy, self._optimizer, self._tokenizer = policy, optimizer, tokenizer
        self._banned = torch.tensor(banned, dtype=torch.long, device=policy.device)
        self._config = config
        self._trunk = Trunk(policy.model)

    def __call__(self, groups: Sequence[Group]) -> Updated:
        """`config.updates_per_batch` optimiser steps on all trajectories of `groups`.

        Raises `StageError` when the gradient is not finite; the weights stay as they were.
        """
        trajectories = [item for group in groups for item in group.trajectories]
        parts = self._parts(trajectories)
        tokens = answer_tokens(trajectories)
        noted = [part.sampled for part in parts]
        losses, norm, before = self._step(parts, noted if self._config.old_policy is OldPolicy.ROLLOUT else None)
        old = noted if self._config.old_policy is OldPolicy.ROLLOUT else before
        for _ in range(self._config.updates_per_batch - 1):
            losses, norm, _ = self._step(parts, old)
        drift = sum(float((now - then).abs().sum()) for now, then in zip(before, noted, strict=True))
        return Updated(
            loss=sum(float(part.loss) for part in losses),
            grad_norm=norm,
            kl=sum(part.kl for part in losses) / tokens,
            clipped=sum(part.clipped for part in losses) / tokens,
            drift=drift / tokens,
            tokens=tokens,
        )

    def _parts(self, trajectories: Sequence[Trajectory]) -> list[_Part]:
        """Micro-batches, neighbours in length together, with the reference's log-probabilities."""
        lengths = [answer_tokens([item]) for item in trajectories]
        config = self._config
        weights = dialogue_weights(lengths, config.normalise, config.max_tokens * config.max_turns)
        weight_of = dict(zip(map(id, trajectories), weights, strict=True))
        parts = []
        for items in micro_batches(trajectories, config.micro_batch):
            tokens = tokens_of(items, self._tokenizer, self._policy.device)
            reference, trunk = self._reference(tokens)
            parts.append(
                _Part(
                    tokens=tokens,
                    sampled=self._on_answers(items, [item.logprobs for item in items]),
                    advantages=self._on_answers(items, [item.token_advantages for item in items]),
                    weights=self._on_answers(items, [[weight_of[id(item)]] * len(item.ids) for item in items]),
                    reference=reference,
                    trunk=trunk,
                )
            )
        return parts

    def _on_answers(self, items: Sequence[Trajectory], rows: Sequence[Sequence[float]]) -> Tensor:
        """(N,) the values of the assistant's tokens, row by row."""
        kept = [
            value
            for item, row in zip(items, rows, strict=True)
            for value, mine in zip(row, item.mask, strict=True)
            if mine
        ]
        return torch.tensor(kept, dtype=torch.float32, device=self._policy.device)

    def _reference(self, tokens: Tokens) -> tuple[Tensor | None, list[Any]]:
        """The reference's log-probabilities, and what its pass computed that the policy's need not."""
        if self._config.beta == 0:
            return None, []
        with self._policy.reference() as model, self._trunk.recording() as seen:
            return self._logprobs(model, tokens), seen

    def _logprobs(self, model: torch.nn.Module, tokens: Tokens) -> Tensor:
        return token_logprobs(model, tokens, temperature=self._config.temperature, banned=self._banned)

    def _step(
        self, parts: Sequence[_Part], old: Sequence[Tensor] | None
    ) -> tuple[list[PolicyLoss], float, list[Tensor]]:
        """One optimiser step against the `old` log-probabilities (None: this step's own); the losses, the gradient's
        norm, and the log-probabilities as they were before it."""
        self._optimizer.zero_grad(set_to_none=True)
        results, before = [], []
        with merged_adapters(self._policy.model):
            for place, part in enumerate(parts):
                with self._trunk.replaying(part.trunk):
                    logprobs = self._logprobs(self._policy.model, part.tokens)
                before.append(logprobs.detach())
                result = policy_loss(
                    logprobs,
                    before[-1] if old is None else old[place],
                    part.reference,
                    part.advantages,
                    part.weights,
                    clip=self._config.clip,
                    beta=self._config.beta,
                )
                result.loss.backward()
                results.append(replace(result, loss=result.loss.detach()))
        norm = descend(self._policy, self._optimizer, self._config.max_grad_norm, "grpo")
        return results, norm, before
