"""The recipe's section for clusters: where verl runs, and the servers the tutor answers from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Mode(StrEnum):
    """How rollouts and updates take turns on the cluster.

    `SYNC`: one after the other on the same GPUs, on policy. `ASYNC`: on the same GPUs, one batch ahead (one step
    off). `SEPARATE`: rollouts on GPUs of their own, up to `max_staleness` versions behind.
    """

    SYNC = "sync"
    ASYNC = "colocate_async"
    SEPARATE = "separate_async"


class ClusterConfig(BaseModel):
    """What `--engine verl` needs to know beyond the method. No key or password stands here: servers' keys come from
    the environment of every node, as `OPENAI_API_KEY` or its relatives."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ray_address: str | None = None
    """A running Ray cluster (`auto`, `ray://head:10001`); None starts one on this machine."""
    nodes: Annotated[int, Field(gt=0)] = 1
    gpus_per_node: Annotated[int, Field(gt=0)] = 8
    cpus: Annotated[int, Field(gt=0)] | None = None
    """CPUs of a Ray that is started here; name them under a batch system, which shows a process all of the node's."""
    mode: Mode = Mode.SYNC
    rollout_nodes: Annotated[int, Field(ge=0)] = 0
    """Nodes for rollouts alone, in `separate_async`."""
    max_staleness: Annotated[int, Field(gt=0)] = 2
    """How many versions of the weights a dialogue may lie behind before it is dropped, in the asynchronous modes."""
    rollout: str = "vllm"
    tensor_parallel: Annotated[int, Field(gt=0)] = 1
    """GPUs a rollout server spreads the student over."""
    sequence_parallel: Annotated[int, Field(gt=0)] = 1
    """GPUs an update splits a long dialogue over."""
    rollout_memory: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of a GPU's memory that a rollout server takes while it writes."""
    offload: bool = False
    """Weights and optimiser wait in the CPU's memory while the servers write: slower, and needed for large students."""
    remove_padding: bool = True
    """Pack dialogues without padding; needs flash attention."""
    attention: str = "flash_attention_2"
    max_prompt_length: Annotated[int, Field(gt=0)] | None = None
    """Tokens before the first answer, images included; None: whatever `grpo.max_length` leaves beside one answer."""
    agent_workers: Annotated[int, Field(gt=0)] = 8
    """Processes that play dialogues; each holds its own connections to the tutor."""
    tutors: tuple[str, ...] = ()
    """Several servers of the same tutor, as SPECs: dialogues are dealt over them, and a failed one is stood in for by
    the next. Empty: `seats.tutor` alone."""
    refills: Annotated[int, Field(ge=0)] = 16
    """How many groups a step may play anew for groups that taught nothing, before it makes do with fewer."""
    trackers: tuple[str, ...] = ("console",)
    """verl's metric backends, such as `tensorboard` or `wandb`."""
    project: str = "safer_steer"
    extra: dict[str, Any] = {}
    """Further keys of verl's for `grpo`, dotted, `+` before those its configuration lacks. What the recipe stands for
    already is refused here."""
    sft_extra: dict[str, Any] = {}
    """The same for verl's SFT trainer."""
