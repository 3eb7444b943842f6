"""verl's FSDP engine with what the recipe freezes (vision tower and projector), as on one machine.

verl 0.9.1 has a key `freeze_vision_tower` that nothing reads. Its engines are found by device and vendor, so this one
is registered under a vendor of its own and chosen by `VERL_ENGINE_VENDOR`; stock engines stay as they are. verl loads
this module through `actor_rollout_ref.model.external_lib`.
"""

from __future__ import annotations

import os
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPooling
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from safer_steer.config import Part
from safer_steer.train.parts import part_of

VENDOR = "safer_steer"
FROZEN = frozenset(Part(name) for name in os.environ.get("SAFER_STEER_FROZEN", "vision,projector").split(",") if name)
"""The recipe's `frozen`, which the launcher puts into the environment of every process."""
BACKENDS = ["fsdp", "fsdp2"]


class FrozenVisionEngine(FSDPEngineWithLMHead):
    """What is frozen does not learn: no gradient, no optimiser state."""

    def _build_module(self) -> Any:
        module = super()._build_module()
        for name, parameter in module.named_parameters():
            part = part_of(name)
            if part is not None and part in FROZEN:
                parameter.requires_grad_(False)
        return module

    def _build_optimizer(self, module: Any) -> Any:
        from verl.workers.config.optimizer import build_optimizer

        return build_optimizer([item for item in module.parameters() if item.requires_grad], self.optimizer_config)


def lend_mean() -> None:
    """Give the vision tower's output the `mean` that verl 0.9.1 asks of it in batches without an image.

    verl adds `0.0 * model.visual(...).mean()` to such batches, from when a vision tower returned a tensor; it now
    returns a record, and text-only dialogues (and verl's own padding) would stop the update.
    """
    if not hasattr(BaseModelOutputWithPooling, "mean"):
        BaseModelOutputWithPooling.mean = lambda self: self.pooler_output.mean()


if VENDOR not in {key[1] for key in EngineRegistry._engines["language_model"]["fsdp2"] if isinstance(key, tuple)}:
    EngineRegistry.register(
        model_type="language_model", backend=BACKENDS, device=["cuda", "npu", "cpu"], vendor=VENDOR
    )(FrozenVisionEngine)
lend_mean()
