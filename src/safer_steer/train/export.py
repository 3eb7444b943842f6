"""A trained policy as an ordinary model folder: adapters merged in, processor included, loadable as `local:PATH`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safer_steer.store import disk_errors
from safer_steer.train.policy import Policy


def save_merged(policy: Policy, path: Path) -> None:
    """Write the whole model to the folder `path`, or leave what was there. The policy itself is not changed.

    Raises `StorageError`.
    """
    model: Any = policy.model if policy.lora is None else policy.model.base_model.model  # type: ignore[union-attr]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            model.save_pretrained(fresh, state_dict=merged_state(model))
            policy.processor.save_pretrained(fresh)
            fresh.chmod(0o755)
            shutil.rmtree(path, ignore_errors=True)
            fresh.rename(path)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


@torch.no_grad()
def merged_state(model: Any) -> dict[str, Tensor]:
    """The state of the model that `model` computes: `W + Σ B A · scale` under the name of W, no adapter left."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner = next((owner for owner in _owners(name) if owner in adapted), None)
        if owner is None:
            state[name] = tensor
        elif name.startswith(f"{owner}.base_layer."):
            field = name.removeprefix(f"{owner}.base_layer.")
            merged = tensor
            if field == "weight":
                for adapter in adapted[owner].active_adapters:
                    merged = (merged + adapted[owner].get_delta_weight(adapter)).to(tensor.dtype)
            state[f"{owner}.{field}"] = merged
    return state


def _owners(name: str) -> list[str]:
    """Every module that a parameter's name lies in.

    >>> _owners("a.b.weight")
    ['a', 'a.b']
    """
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
