"""Stage II's training: maximum likelihood on the answers of the kept dialogues, and on nothing else."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safer_steer.actors.assistant import system_of
from safer_steer.actors.chat import Message, Role
from safer_steer.actors.local import DialogueTokenizer
from safer_steer.config import Recipe, SftConfig, SftEngine
from safer_steer.dialogue import ImageRef, Record, Rollout, stable_id
from safer_steer.errors import StageError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.store import fingerprint, read_records
from safer_steer.train.batch import answer_tokens, micro_batches, tokens_of
from safer_steer.train.checkpoint import Checkpoint, journal_until
from safer_steer.train.export import save_merged
from safer_steer.train.loss import token_logprobs
from safer_steer.train.memory import announcement
from safer_steer.train.merged import merged_adapters
from safer_steer.train.policy import Policy, descend
from safer_steer.train.rates import rate_share, set_rate
from safer_steer.weights import weights_print

STAGE = "sft"
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Example:
    """A dialogue to learn: `ids`, the assistant's `mask` over them, and the images of its places."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """What a training came to: dialogues that fitted, their answer tokens, and the loss of every step."""

    dialogues: int
    answer_tokens: int
    losses: list[float]


class SftStep(Record):
    """One line of `metrics.jsonl`. `loss` is the mean over the step's `tokens` answer tokens;
    `seconds` is `None` where transformers' Trainer made it, which does not tell a step's time."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    dialogues: int
    tokens: int
    seconds: float | None


def run_sft(recipe: Recipe, run: RunFolder, model_path: Path, report: Reporter) -> dict[str, Any]:
    """Train the model in `model_path` on `bootstrap/kept.jsonl`; the result is `sft/model`. Resumes; returns counts.

    Raises `StageError` when nothing fits, `StorageError`, `WeightsError`.
    """
    rollouts = kept_dialogues(run)
    settings = (recipe.seed, recipe.sft.binding(), system_of(recipe))
    run.claim(STAGE, fingerprint(STAGE, settings, [item.to_json() for item in rollouts], weights_print(model_path)))
    done = run.finished(STAGE)
    if done is not None:
        return done
    began = time.monotonic()
    report.note(f"{STAGE}: {announcement(model_path, recipe.sft)}")
    if recipe.sft.processes > 1:
        from safer_steer.train.sft_processes import train_together  # they make the policy, each its own

        learned = train_together(recipe, run, model_path, report)
    else:
        learned = _train_here(recipe, run, model_path, rollouts, report)
    result = {
        "dialogues": learned.dialogues,
        "too_long": len(rollouts) - learned.dialogues,
        "answer_tokens": learned.answer_tokens,
        "steps": len(learned.losses),
        "loss_first": learned.losses[0],
        "loss_last": learned.losses[-1],
        "seconds": round(time.monotonic() - began, 1),
    }
    run.finish(STAGE, result)
    return result


def _train_here(
    recipe: Recipe, run: RunFolder, model_path: Path, rollouts: Sequence[Rollout], report: Reporter
) -> Learned:
    policy, tokenizer, examples = prepared(recipe, run, model_path, rollouts)
    if recipe.sft.engine is SftEngine.TRAINER:
        from safer_steer.train.sft_trainer import train_with_trainer  # only here: it brings transformers' Trainer

        losses, _ = train_with_trainer(recipe, run.stage(STAGE), policy, tokenizer, examples, report)
    else:
        losses = train(recipe, run.stage(STAGE), policy, tokenizer, examples, report)
    save_merged(policy, run.stage(STAGE) / "model")
    return Learned(len(examples), answer_tokens(examples), losses)


def kept_dialogues(run: RunFolder) -> list[Rollout]:
    """What Stage II kept for SFT."""
    return list(read_records(run.root / "bootstrap" / "kept.jsonl", Rollout))


def prepared(
    recipe: Recipe, run: RunFolder, model_path: Path, rollouts: Sequence[Rollout]
) -> tuple[Policy, DialogueTokenizer, list[Example]]:
    """The policy and what it learns from `rollouts`. Raises `StageError` when nothing fits, `WeightsError`."""
    policy = Policy.load(model_path, recipe.sft, seed=recipe.seed)
    tokenizer = DialogueTokenizer.of(policy.processor, run.images)
    examples = examples_of(rollouts, tokenizer, recipe)
    if not examples:
        hint = f"raise sft.max_length={recipe.sft.max_length} and delete {run.root / STAGE}"
        raise StageError("no dialogue fits the length limit", where=STAGE, hint=hint)
    return policy, tokenizer, examples


def examples_of(rollouts: Sequence[Rollout], tokenizer: DialogueTokenizer, recipe: Recipe) -> list[Example]:
    """The dialogues as tokens, laid out as rollouts are; those longer than `sft.max_length` lose their last turns,
    and are left out when not even one turn fits."""
    found = (_example(rollout, tokenizer, recipe) for rollout in rollouts)
    return [example for example in found if example is not None]


def _example(rollout: Rollout, tokenizer: DialogueTokenizer, recipe: Recipe) -> Example | None:
    system = system_of(recipe)
    messages = [] if system is None else [Message(role=Role.SYSTEM, text=system)]
    for turn in rollout.turns:
        messages.append(Message(role=Role.USER, text=turn.user, images=rollout.script.images_at(turn.index)))
        # No token trace: another model wrote this answer, with a vocabulary of its own.
        messages.append(Message(role=Role.ASSISTANT, text=turn.answer.raw))
    layout = tokenizer.lay_out(messages)
    fitting = [stop for _, stop in layout.answer_spans if stop <= recipe.sft.max_length]
    if not fitting:
        return None
    images = rollout.script.images_until(len(fitting))
    return Example(layout.ids[: fitting[-1]], layout.answer_mask[: fitting[-1]], images)


def train(
    recipe: Recipe,
    folder: Path,
    policy: Policy,
    tokenizer: DialogueTokenizer,
    examples: Sequence[Example],
    report: Reporter,
) -> list[float]:
    """Run the steps that are still to do; returns the loss of every step, those before a restart included."""
    config = recipe.sft
    total = total_steps(len(examples), config)
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    checkpoint = Checkpoint(folder / "checkpoint" / "state.pt")
    start = checkpoint.restore(policy, optimizer)
    journal = journal_until(folder / "metrics.jsonl", SftStep, start, lambda line: line.step)
    with journal, report.stage(STAGE, total - start):
        for step in range(start + 1, total + 1):
            began = time.monotonic()
            rate = config.learning_rate * rate_share(step, total, config.warmup_share)
            set_rate(optimizer, rate)
            batch = [examples[index] for index in chosen(step, len(examples), config.batch_size, recipe.seed)]
            loss, norm = update(policy, tokenizer, optimizer, batch, config.micro_batch)
            line = SftStep(
                step=step,
                loss=loss,
                grad_norm=norm,
                learning_rate=rate,
                dialogues=len(batch),
                tokens=answer_tokens(batch),
                seconds=round(time.monotonic() - began, 3),
            )
            journal.append(line)
            if step % config.checkpoint_every == 0 or step == total:
                checkpoint.save(step, policy, optimizer)
            report.advance(loss=loss)
        return [line.loss for line in journal]


def update(
    policy: Policy,
    tokenizer: DialogueTokenizer,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Example],
    micro_batch: int,
) -> tuple[float, float]:
    """One optimiser step on the mean loss over the batch's answer tokens; returns it and the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)
    total, summed = answer_tokens(batch), 0.0
    with merged_adapters(policy.model):
        for part in micro_batches(batch, micro_batch):
            tokens = tokens_of(part, tokenizer, policy.device)
            loss = -token_logprobs(policy.model, tokens).sum() / total
            loss.backward()
            summed += float(loss.detach())
    return summed, descend(policy, optimizer, MAX_GRAD_NORM, STAGE)


def total_steps(examples: int, config: SftConfig) -> int:
    """How many optimiser steps there are; the last batch is filled up from one epoch more.

    >>> total_steps(10, SftConfig(batch_size=4, epochs=2))
    5
    """
    steps = math.ceil(config.epochs * examples / config.batch_size)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def chosen(step: int, count: int, size: int, seed: int) -> list[int]:
    """The indices of step `step` (from 1): every epoch in its own seeded order, batches running across its end.

    >>> sorted(chosen(1, 4, 2, 0) + chosen(2, 4, 2, 0))
    [0, 1, 2, 3]
    """
    places = range((step - 1) * size, step * size)
    orders = {epoch: _order(count, epoch, seed) for epoch in {place // count for place in places}}
    return [orders[place // count][place % count] for place in places]


def _order(count: int, epoch: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(stable_id(STAGE, seed, epoch)).shuffle(order)
    return order
