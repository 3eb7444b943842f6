"""Stage II's training by transformers' Trainer: accelerate, FSDP and DeepSpeed configurations, loggers by name.

The same tokens, masks, order, schedule and optimiser as our own loop (`sft.train`), whose losses it equals on one
machine. What `sft.trainer` says goes to `TrainingArguments` as it is; what follows from the recipe (`FOLLOWS`) it may
not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from safer_steer.actors.local import DialogueTokenizer
from safer_steer.config import Recipe, SftConfig
from safer_steer.errors import ConfigError
from safer_steer.progress import Reporter
from safer_steer.store import Journal, write_atomic
from safer_steer.train.batch import Tokens, answer_tokens, tokens_of
from safer_steer.train.checkpoint import journal_until
from safer_steer.train.loss import token_logprobs
from safer_steer.train.policy import Policy
from safer_steer.train.rates import rate_share
from safer_steer.train.sft import MAX_GRAD_NORM, STAGE, Example, SftStep, chosen, total_steps

WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where every process has the whole model, so that its head can be called by itself, on answer tokens alone."""

SAVED = "saved"
"""The file that says that a checkpoint is whole. The Trainer's state would not: the first process writes it without
waiting for what the others save."""

FOLLOWS = frozenset(
    {
        "output_dir", "resume_from_checkpoint", "ignore_data_skip", "seed", "data_seed", "use_cpu", "do_train",
        "do_eval", "do_predict", "num_train_epochs", "max_steps", "per_device_train_batch_size",
        "gradient_accumulation_steps", "auto_find_batch_size", "dataloader_drop_last", "remove_unused_columns",
        "label_names", "group_by_length", "train_sampling_strategy", "length_column_name", "learning_rate",
        "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm",
        "optim", "optim_args", "optim_target_modules", "adafactor", "adam_beta1", "adam_beta2", "adam_epsilon",
        "label_smoothing_factor", "neftune_noise_alpha", "average_tokens_across_devices", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "activation_checkpointing", "activation_checkpointing_kwargs",
        "logging_steps", "logging_strategy", "logging_nan_inf_filter", "save_steps", "save_strategy",
        "save_only_model", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "load_best_model_at_end",
    }
)  # fmt: skip
"""Arguments that the recipe's own keys, the journal or the resume decide. Said otherwise they would have no effect, or
the metrics would be wrong or the checkpoints of no use."""


def train_with_trainer(
    recipe: Recipe,
    folder: Path,
    policy: Policy,
    tokenizer: DialogueTokenizer,
    examples: Sequence[Example],
    report: Reporter,
) -> tuple[list[float], dict[str, Tensor] | None]:
    """Run the steps that are still to do; returns the loss of every step, those before a restart included.

    Beside the losses, what was learned where the processes hold it in parts (`None`: the policy has it whole). In
    several processes the first one alone writes, and has the losses and what was learned.

    Raises `ConfigError` for settings that `TrainingArguments` does not know or that cannot be met.
    """
    config, total = recipe.sft, total_steps(len(examples), recipe.sft)
    if config.lora is not None and policy.beside_adapters:
        hint = "use engine: loop, or lora: null"
        raise ConfigError("the Trainer's checkpoints hold adapters alone", where="sft.frozen", hint=hint)
    settings = arguments(config, folder / "trainer", total, recipe.seed, cpu=policy.device.type == "cpu")
    (start,) = broadcast_object_list([last_step(folder / "trainer")])  # every process goes on from the same
    ordered = [
        examples[i] for n in range(1, total + 1) for i in chosen(n, len(examples), config.batch_size, recipe.seed)
    ]
    first = settings.process_index == 0
    journal = (
        journal_until(folder / "metrics.jsonl", SftStep, start, lambda line: line.step) if first else nullcontext()
    )
    with journal as kept, report.stage(STAGE, total - start):
        trainer = DialogueTrainer(
            policy=policy, tokenizer=tokenizer, config=config, total=total, args=settings, train_dataset=ordered
        )
        trainer.add_callback(_Told(trainer, kept, report, config))
        trainer.train(resume_from_checkpoint=str(folder / "trainer" / f"checkpoint-{start}") if start else None)
        losses = [] if kept is None else [line.loss for line in kept]
    return losses, trainer.gathered()


def last_step(folder: Path) -> int:
    """The step of the newest checkpoint in the Trainer's folder that every process saved whole, or 0."""
    return max((int(mark.parent.name.partition("-")[2]) for mark in folder.glob(f"checkpoint-*/{SAVED}")), default=0)


def arguments(config: SftConfig, folder: Path, total: int, seed: int, *, cpu: bool) -> TrainingArguments:
    """`TrainingArguments` for the recipe; `config.trainer` may say more. Raises `ConfigError`."""
    decided = sorted(FOLLOWS & config.trainer.keys())
    if decided:
        hint = "leave them out; the recipe has learning_rate, micro_batch, checkpoint_every and the like beside them"
        raise ConfigError(f"follows from the recipe: {', '.join(decided)}", where="sft.trainer", hint=hint)
    ours: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": total, "per_device_train_batch_size": config.micro_batch,
        "max_grad_norm": MAX_GRAD_NORM, "logging_steps": 1, "logging_nan_inf_filter": False,
        "save_steps": config.checkpoint_every, "save_total_limit": 2, "seed": seed, "data_seed": seed,
        "remove_unused_columns": False, "report_to": "none", "use_cpu": cpu, "disable_tqdm": True,
        "bf16": False, "dataloader_pin_memory": not cpu,
        # the head is called apart from the model (loss.py), so that what its output reaches tells nothing
        "ddp_find_unused_parameters": False,
    }  # fmt: skip
    try:
        settings = TrainingArguments(**{**ours, **config.trainer})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"not what TrainingArguments takes: {error}", where="sft.trainer") from error
    if cpu and settings.fsdp:
        what = "FSDP shards over GPUs; on CPUs accelerate would train whole copies and not say so"
        raise ConfigError(what, where="sft.trainer.fsdp", hint="leave it out, or train where there are GPUs")
    together = settings.per_device_train_batch_size * settings.world_size
    if config.batch_size % together:
        hint = f"make batch_size={config.batch_size} a multiple of micro_batch times the number of processes"
        raise ConfigError(f"a step cannot be split into passes of {together} dialogues", where="sft", hint=hint)
    settings.gradient_accumulation_steps = config.batch_size // together
    return settings


class DialogueTrainer(Trainer):
    """The Trainer with our loss (assistant tokens alone), our order of dialogues, AdamW and schedule.

    `summed` is the loss of the step that is being made, exactly (the Trainer's own log is rounded).
    """

    def __init__(
        self, *, policy: Policy, tokenizer: DialogueTokenizer, config: SftConfig, total: int, **more: Any
    ) -> None:
        self._policy, self._sft, self._total = policy, config, total
        self._learning = frozenset(policy.trainable)
        self.summed = 0.0

        def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
            tokens = tokens_of(batch, tokenizer, torch.device("cpu"))
            labels = tokens.ids.clone()
            labels[:, 0] = -100
            labels[:, 1:][~tokens.targets] = -100
            return {"input_ids": tokens.ids, "labels": labels, **tokens.images}

        super().__init__(model=policy.model, data_collator=collate, **more)
        self.model_accepts_loss_kwargs = True  # losses are divided by the tokens of the whole step, not by passes

    def gathered(self) -> dict[str, Tensor] | None:
        """What learned, by the policy's names, where no process has it whole; every process must ask."""
        if self.accelerator.distributed_type in WHOLE:
            return None
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return {name: tensor for name, tensor in state.items() if name in self._learning}

    def create_optimizer(self, *args: Any, **more: Any) -> torch.optim.Optimizer:
        """AdamW on what learns, weight decay on all of it, as in our loop."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        config = self._sft
        self.optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=config.weight_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Our warm-up and decay; the scheduler counts steps from 0."""
        warmup = self._sft.warmup_share
        chosen = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(chosen, lambda done: rate_share(min(done + 1, self._total), self._total, warmup))
        return self.lr_scheduler

    def _get_train_sampler(self, *args: Any, **more: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean −log π over the step's answer tokens, this pass's share of it."""
        if self.accelerator.distributed_type in WHOLE and num_items_in_batch is not None:
            ids, labels, *_ = inputs["input_ids"], inputs["labels"]
            images = {key: value for key, value in inputs.items() if key not in ("input_ids", "labels")}
            tokens = Tokens(ids=ids, targets=labels[:, 1:] != -100, images=images)
            head = self.accelerator.unwrap_model(model)
            loss = -token_logprobs(model, tokens, owner=head).sum() / num_items_in_batch
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        else:
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self.summed += float(loss.detach()) / self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def train(self, *args: Any, **more: Any) -> Any:
        """As the Trainer does, but in evaluation mode throughout: what is trained is what samples."""
        mode = self.model.train
        self.model.train = lambda mode=True: self.model
        try:
            return super().train(*args, **more)
        finally:
            self.model.train = mode


class _Told(TrainerCallback):
    """Writes a line of `metrics.jsonl` for every step, in the process that has the journal, and marks checkpoints."""

    def __init__(
        self, trainer: DialogueTrainer, journal: Journal[SftStep] | None, report: Reporter, config: SftConfig
    ) -> None:
        self._trainer, self._journal, self._report, self._config = trainer, journal, report, config

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._trainer.accelerator.wait_for_everyone()
        if self._journal is not None:
            write_atomic(Path(args.output_dir) / f"checkpoint-{state.global_step}" / SAVED, "")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
        if logs is None or "grad_norm" not in logs:
            return
        accelerator = self._trainer.accelerator
        mine, self._trainer.summed = self._trainer.summed, 0.0
        loss = float(accelerator.reduce(torch.tensor(mine, device=accelerator.device), "sum"))
        if self._journal is None:
            return
        size = self._config.batch_size
        batch = self._trainer.train_dataset[(state.global_step - 1) * size : state.global_step * size]
        self._journal.append(
            SftStep(
                step=state.global_step,
                loss=loss,
                grad_norm=float(logs["grad_norm"]),
                learning_rate=float(logs["learning_rate"]),
                dialogues=size,
                tokens=answer_tokens(batch),
                seconds=None,
            )
        )
        self._report.advance(loss=loss)
