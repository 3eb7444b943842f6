"""verl's replay buffers, with groups that taught nothing played anew: so a step's batch stays full.

Stock verl refills groups that failed, not groups that ended well and empty, which is how the agent loop drops one.
`sampler_kwargs.refills` bounds how many a step may replace; beyond that the step makes do with fewer groups, and when
none is left it stops with what the ledger says, instead of asking a dead tutor for ever.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from safer_steer.errors import StageError

Reasons = tuple[set[str], set[str], set[str], Counter[float]]


class Refilling:
    """What both buffers share. Set beside verl's class, which does the rest."""

    partitions: dict[str, dict[str, dict[str, Any]]]
    finished_keys: dict[str, set[str]]
    failure_keys: dict[str, set[str]]
    sampler_kwargs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refilled: Counter[int] = Counter()

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Reasons:
        """verl's reasons, and empty groups among the failed ones as far as the step's refills reach."""
        stale, filtered, failed, counts = super()._terminal_eviction_reasons(  # type: ignore[misc]
            global_steps, partition_id
        )
        if partition_id != "train":
            return stale, filtered, failed, counts
        filled = {key.split("_")[0] for key in self.partitions[partition_id]}
        empty = (self.finished_keys[partition_id] | self.failure_keys[partition_id]) - filled
        room = max(0, int(self.sampler_kwargs["refills"]) - self._refilled[global_steps])
        again = set(sorted(empty)[:room])
        self._refilled[global_steps] += len(again)
        return stale, filtered, failed | again, counts

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        """verl's batch and metrics, with the step's refills among them. Raises `StageError` for an empty step."""
        try:
            batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        except RuntimeError as error:
            if "no materializable trajectories" not in str(error):
                raise
            raise StageError(
                f"step {global_steps}: no group taught anything, after {self._refilled[global_steps]} refills",
                where="grpo",
                hint="look at `dropped` and `detail` in grpo/ledger/groups-*.jsonl: is the tutor answering?",
            ) from error
        metrics["safer_steer/refilled_groups"] = self._refilled.pop(global_steps, 0)
        metrics["safer_steer/dialogues"] = len(batch.keys)
        return batch, metrics


class SteerReplayBuffer(Refilling, ReplayBuffer):
    """For `sync`."""


class SteerReplayBufferAsync(Refilling, ReplayBufferAsync):
    """For the asynchronous modes."""
