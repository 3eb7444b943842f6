"""TRL's GRPO update on our trajectories: the peer that loss, gradients and speed are compared with.

TRL takes one padded prompt and one padded completion a dialogue; turns after the first stand in the completion, and
`tool_mask` keeps what the assistant did not write out of the loss, as its `rollout_func` does with `env_mask`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safer_steer.config import GrpoConfig
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration
from safer_steer.reward import Normalise
from safer_steer.train.batch import pad
from safer_steer.train.trajectory import Trajectory

LOSS_TYPES = {Normalise.GRPO: "grpo", Normalise.DAPO: "dapo", Normalise.DR_GRPO: "dr_grpo"}
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


class TrlStudent(SteerVLMForConditionalGeneration):
    """The student with the backbone where TRL looks for it: what gives the head its hidden states."""

    @property
    def base_model(self) -> Callable[..., Any]:
        def backbone(input_ids: Tensor, pixel_values: Tensor | None = None, **more: Any) -> Any:
            return self.language_model.model(inputs_embeds=self.embed(input_ids, pixel_values), **more)

        return backbone


def trl_trainer(model: nn.Module, processor: Any, config: GrpoConfig, folder: Path, *, checkpointing: bool) -> Any:
    """TRL's trainer around `model`, told what `config` says; nothing but its loss is used."""
    for module in model.modules():
        if type(module) is SteerVLMForConditionalGeneration:
            module.__class__ = TrlStudent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        settings = GRPOConfig(
            output_dir=str(folder),
            loss_type=LOSS_TYPES[config.normalise],
            epsilon=config.clip,
            temperature=config.temperature,
            max_completion_length=config.max_tokens * config.max_turns,
            beta=0.0,  # otherwise it loads a second model by name; set below
            use_bias_correction_kl=False,
            per_device_train_batch_size=2,
            num_generations=2,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=checkpointing,
            disable_dropout=True,
            report_to="none",
        )
        rows = Dataset.from_list([{"prompt": "a"}] * 2)
        trainer = GRPOTrainer(model, lambda **_: [0.0], args=settings, train_dataset=rows, processing_class=processor)
    trainer.beta = config.beta
    model.eval()  # its losses are divided by accumulation steps otherwise; there is no dropout to lose
    return trainer


def trl_inputs(trajectories: Sequence[Trajectory], images: dict[str, Tensor], filler: int) -> dict[str, Any]:
    """A batch as TRL wants it: prompts padded on the left, completions on the right, token-level advantages."""
    starts = [item.spans[0][0] for item in trajectories]
    longest = max(starts)
    lefts = [longest - start for start in starts]

    def after(rows: Sequence[Sequence[Any]], zero: Any) -> Tensor:
        return torch.tensor(pad([row[start:] for row, start in zip(rows, starts, strict=True)], zero))

    mask = after([[int(flag) for flag in item.mask] for item in trajectories], 0)
    prompts = [
        [filler] * left + list(item.ids[:start]) for item, start, left in zip(trajectories, starts, lefts, strict=True)
    ]
    return {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": torch.tensor([[0] * left + [1] * (longest - left) for left in lefts]),
        "completion_ids": after([item.ids for item in trajectories], filler),
        "completion_mask": after([[1] * len(item.ids) for item in trajectories], 0),
        "tool_mask": mask,
        "advantages": after([item.token_advantages for item in trajectories], 0.0),
        "old_per_token_logps": after([item.logprobs for item in trajectories], 0.0),
        "num_items_in_batch": mask.sum(),
        "num_images": [len(item.images) for item in trajectories],
        **images,
    }


def trl_logprobs(trainer: Any, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """TRL's log-probabilities of the completions, (B, longest completion), without gradients."""
    with torch.no_grad():
        logprobs, *_ = trainer._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
            **{key: inputs[key] for key in ("pixel_values", "num_images") if key in inputs},
        )
    result: Tensor = logprobs
    return result
