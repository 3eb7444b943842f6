"""A trajectory as verl wants it: the first context is the prompt, all that follows is the response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from safer_steer.train.trajectory import Trajectory


class SteerOutput(AgentLoopOutput):
    """verl's output with a reward per turn: `turn_ends` are places in the response, `turn_rewards` what stands there.

    verl itself knows one reward per dialogue, on the last token; `reward_score` is set as well (to the sum), because
    verl asks its own reward functions where there is none.
    """

    turn_ends: list[int]
    turn_rewards: list[float]

    def as_dict(self) -> dict[str, Any]:
        """verl's fields, with `rm_scores` (L,) holding each turn's reward on its last token."""
        fields = super().as_dict()
        ends, rewards = fields.pop("turn_ends"), fields.pop("turn_rewards")
        scores = torch.zeros_like(fields["response_mask"], dtype=torch.float32)
        scores[ends] = torch.tensor(rewards, dtype=torch.float32)
        fields["rm_scores"] = scores
        return fields


def output_of(
    trajectory: Trajectory, pictures: Sequence[Any], *, versions: Sequence[int], seconds: float
) -> SteerOutput:
    """What verl gets for one dialogue; `pictures` are the images of its places, in order, as PIL images.

    `versions` are the weights' versions that wrote it (verl's off-policy bookkeeping), `seconds` what writing took.
    """
    start = trajectory.spans[0][0]
    return SteerOutput(
        prompt_ids=list(trajectory.ids[:start]),
        response_ids=list(trajectory.ids[start:]),
        response_mask=[int(mine) for mine in trajectory.mask[start:]],
        response_logprobs=list(trajectory.logprobs[start:]),
        multi_modal_data={"images": list(pictures)} if pictures else {},
        reward_score=sum(trajectory.rewards),
        num_turns=2 * len(trajectory.spans),
        metrics=AgentLoopMetrics(generate_sequences=seconds),
        extra_fields={
            "min_global_steps": min(versions, default=None),
            "max_global_steps": max(versions, default=None),
            "turn_scores": list(trajectory.rewards),
            "reward_extra_info": {"turns": len(trajectory.spans), "lowest_turn": min(trajectory.rewards)},
        },
        turn_ends=[stop - start - 1 for _, stop in trajectory.spans],
        turn_rewards=list(trajectory.rewards),
    )
