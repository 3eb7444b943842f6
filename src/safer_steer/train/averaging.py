"""The mean of what a policy learned over its last steps (Polyak averaging).

At a constant rate Adam's last step stands where the noise of a few dialogues threw it; the mean of several stands near
their middle, at no cost but one copy of what learns.
"""

from __future__ import annotations

from torch import Tensor

from safer_steer.train.policy import Policy


class TailMean:
    """The mean over the last `count` of `steps` steps, kept as a sum. With `count` 1 nothing is kept or changed."""

    def __init__(self, steps: int, count: int) -> None:
        self._first = steps - count + 1
        self._count = count
        self.sums: dict[str, Tensor] = {}

    def add(self, step: int, policy: Policy) -> None:
        """Take in what the policy is after `step`."""
        if self._count == 1 or step < self._first:
            return
        for name, tensor in policy.state().items():
            self.sums[name] = self.sums[name] + tensor if name in self.sums else tensor

    def put(self, policy: Policy) -> None:
        """Let the policy be the mean."""
        if self._count > 1:
            policy.restore({name: total / self._count for name, total in self.sums.items()})
