"""What a killed run needs to go on exactly where it was: one file, written whole or not at all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from safer_steer.dialogue import Record
from safer_steer.errors import StorageError
from safer_steer.store import Journal, disk_errors, write_atomic, write_records
from safer_steer.train.averaging import TailMean
from safer_steer.train.policy import Policy

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A policy and its optimiser after `step` steps, in one file. Everything random follows from seed and step."""

    path: Path

    def save(self, step: int, policy: Policy, optimizer: torch.optim.Optimizer, mean: TailMean | None = None) -> None:
        """Replace the checkpoint; raises `StorageError`."""
        buffer = io.BytesIO()
        state = {"step": step, "policy": policy.state(), "optimizer": optimizer.state_dict()}
        state["mean"] = {} if mean is None else mean.sums
        torch.save({**state, "rng": torch.get_rng_state()}, buffer)
        write_atomic(self.path, buffer.getvalue())

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer, mean: TailMean | None = None) -> int:
        """Load what `save` wrote and return its step; 0 where there is none. Raises `StorageError`."""
        if not self.path.exists():
            return 0
        hint = "delete it to start the stage's training afresh"
        try:
            with disk_errors(self.path):
                state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            policy.restore(state["policy"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if mean is not None:
                mean.sums = state["mean"]
            return int(state["step"])
        except (EOFError, pickle.UnpicklingError) as error:  # torch's words advise to load it unsafely: left out
            raise StorageError("is not a checkpoint: it cannot be read", where=self.path, hint=hint) from error
        except (RuntimeError, ValueError, KeyError) as error:
            raise StorageError(f"is not a checkpoint of this model: {error}", where=self.path, hint=hint) from error


def journal_until(
    path: Path, record: type[R], step: int, step_of: Callable[[R], int], key: Callable[[R], str] | None = None
) -> Journal[R]:
    """The journal at `path` without the records of steps after `step`: a killed run repeats those steps.

    Records go by `key`, or by their step where there is one record a step.
    """
    name = (lambda entry: str(step_of(entry))) if key is None else key
    with Journal(path, record, name) as journal:  # cuts off a half-written last line
        kept = [entry for entry in journal if step_of(entry) <= step]
    write_records(path, kept)
    return Journal(path, record, name)
