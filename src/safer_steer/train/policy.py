"""The student in training: a model, the part of it that learns, and the reference it is held to."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from safer_steer.actors.local import use_onednn
from safer_steer.actors.local.loading import check_head, load_model
from safer_steer.config import Dtype, GrpoConfig, LoraConfig, Part, SftConfig
from safer_steer.errors import ConfigError, StageError
from safer_steer.train.parts import part_of, sees


class Policy:
    """A model whose language part learns, by LoRA adapters or whole; what `frozen` names stays as it is.

    The model stays in evaluation mode (no dropout), so that what is trained is what sampled. The reference is the
    model with its adapters switched off (and what learns beside them put back), or a frozen copy, made when the
    policy is (none unless it `compares`). With `autocast` the model computes in that type, and what does not learn is
    kept in it.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        lora: LoraConfig | None,
        *,
        seed: int = 0,
        frozen: Collection[Part] = tuple(Part),
        autocast: torch.dtype | None = None,
        compares: bool = True,
    ) -> None:
        self.processor, self.lora = processor, lora
        if autocast is not None:
            model.to(autocast)
        model.requires_grad_(False).eval()
        self._copy: nn.Module | None = None
        if lora is not None:
            model = adapted(model, lora, seed)
        elif compares:
            self._copy = copy.deepcopy(model)
        for name, parameter in model.named_parameters():
            part = part_of(name)
            learns = lora is None if part is None else part not in frozen
            if learns and parameter.is_floating_point():
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        self.model = model
        own = {name: parameter for name, parameter in self.trainable.items() if "lora_" not in name}
        self._originals = {name: p.detach().clone() for name, p in own.items()} if lora is not None else {}
        if autocast is not None:
            compute_in(autocast, self.model, *([] if self._copy is None else [self._copy]))
        else:
            use_onednn(model)

    @classmethod
    def load(
        cls, path: Path, config: SftConfig | GrpoConfig, *, seed: int = 0, device: torch.device | None = None
    ) -> Policy:
        """The model folder `path` ready to train, on `device` (a GPU if there is one). Raises `WeightsError`, also
        for a model whose logits are not what its head gives."""
        model, processor = load_model(path)
        check_head(model, path)
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
        autocast = torch.bfloat16 if config.dtype is Dtype.BFLOAT16 else None
        model = model.to(device=chosen, dtype=autocast)
        compares = isinstance(config, GrpoConfig)
        policy = cls(
            model, processor, config.lora, seed=seed, frozen=config.frozen, autocast=autocast, compares=compares
        )
        if config.gradient_checkpointing:
            checkpoint_layers(policy.model)
        return policy

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    @property
    def beside_adapters(self) -> bool:
        """Whether anything but LoRA adapters learns while there are adapters."""
        return bool(self._originals)

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The model as it was before training, without gradients; raises ValueError for a policy that has none."""
        if self._copy is None and self.lora is None:
            raise ValueError("this policy was made without a reference")
        with torch.no_grad():
            if self._copy is not None:
                yield self._copy
            else:
                model: Any = self.model
                with model.disable_adapter(), self._as_it_was():
                    yield model

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """What learns beside the adapters, put back for a while."""
        own = {name: parameter for name, parameter in self.trainable.items() if name in self._originals}
        now = {name: parameter.data for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.data = self._originals[name]
        try:
            yield
        finally:
            for name, parameter in own.items():
                parameter.data = now[name]

    def state(self) -> dict[str, Tensor]:
        """A copy of what learns."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trainable.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave; raises ValueError for another model's."""
        trainable = self.trainable
        if trainable.keys() != state.keys():
            raise ValueError("the checkpoint holds other weights than this model trains")
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(state[name])


def compute_in(dtype: torch.dtype, *models: nn.Module) -> None:
    """Let the models and their heads compute in `dtype`, whatever their weights are kept in."""
    for model in models:
        anything: Any = model
        for module in (anything, anything.get_output_embeddings()):
            kind = next(module.parameters()).device.type
            module.forward = torch.autocast(kind, dtype)(module.forward)


def checkpoint_layers(model: nn.Module) -> None:
    """Gradient checkpointing of the language part's layers, for a model in evaluation mode: the layers alone are told
    that they train (they hold no dropout themselves), as transformers asks for that."""
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not sees(name):
            module.gradient_checkpointing = module.training = True
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def lora_targets(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Full names of the language part's linear layers that end in one of `targets`: names, or regular expressions.

    `q_proj` is that layer everywhere, `layers\\.(2\\d)\\..*_proj` every projection of layers 20 to 29.
    Raises `ConfigError` when nothing matches.
    """
    try:
        wanted = re.compile(rf"(.*\.)?({'|'.join(targets)})")
    except re.error as error:
        raise ConfigError(f"not a regular expression: {error}", where="lora.targets") from error
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not sees(name)]
    found = [name for name in layers if wanted.fullmatch(name)]
    if not found:
        raise ConfigError(f"no layer is named {', '.join(targets)}", where="lora.targets", hint="name linear layers")
    return found


def adapted(model: nn.Module, lora: LoraConfig, seed: int) -> nn.Module:
    """`model` with fresh LoRA adapters (they change nothing yet), drawn from `seed`."""
    settings = PeftLora(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora_targets(model, lora.targets), lora_dropout=0.0
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the old name
        torch.manual_seed(seed)
        adapted: nn.Module = get_peft_model(model, settings)
    return adapted.eval()


def descend(policy: Policy, optimizer: torch.optim.Optimizer, max_norm: float, where: str) -> float:
    """Clip the gradient and take one step; returns the gradient's norm before clipping.

    Raises `StageError` when it is not finite; the weights stay as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(policy.trainable.values(), max_norm))
    if not math.isfinite(norm):
        hint = f"lower {where}.learning_rate, delete the folder {where} of the run, and run the same command again"
        raise StageError("the gradient is not finite", where=where, hint=hint)
    optimizer.step()
    return norm
