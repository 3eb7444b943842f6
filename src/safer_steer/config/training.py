"""The sections of the training stages: SFT and GRPO."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from safer_steer.config.sections import Positive, Section, Share
from safer_steer.dialogue import MAX_TURNS
from safer_steer.limits import Price
from safer_steer.reward import Credit, Normalise, RewardWeights, Shaping


class LoraConfig(Section):
    rank: Positive = 16
    alpha: Positive = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Part(StrEnum):
    """Parts of a vision-language model that can be kept as they are while the language part learns."""

    VISION = "vision"
    PROJECTOR = "projector"


class Dtype(StrEnum):
    """What weights are kept and computed in. `BFLOAT16`: what does not learn is kept in bf16 and everything computed
    in it, what learns (and its optimiser state) stays in fp32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class SftEngine(StrEnum):
    """Who runs Stage II's training: our loop (one machine, resumes to the last digit), or transformers' Trainer
    (accelerate: several GPUs, FSDP, DeepSpeed, loggers by name). Both train the same tokens in the same order."""

    LOOP = "loop"
    TRAINER = "trainer"


class Training(Section):
    """What both training stages are told about the model."""

    frozen: tuple[Part, ...] = (Part.VISION, Part.PROJECTOR)
    """What stays as it is. A part that is not named here learns whole, also where the language part has LoRA."""
    dtype: Dtype = Dtype.FLOAT32
    gradient_checkpointing: bool = False
    """Keep only every layer's input and compute the rest again on the way back: less memory, a third more work."""
    lora: LoraConfig | None = LoraConfig()


class SftConfig(Training):
    """Stage II's training. The paper: lr 1e-5, batch 16, 2 epochs, AdamW, weight decay 0.01, length 32768."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    batch_size: Positive = 16
    micro_batch: Positive = 4
    epochs: Annotated[float, Field(gt=0)] = 2
    max_steps: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Share = 0.1
    max_length: Positive = 32768
    checkpoint_every: Positive = 10
    engine: SftEngine = SftEngine.LOOP
    trainer: dict[str, Any] = Field(default_factory=dict)
    """transformers' `TrainingArguments` by name, for `engine: trainer`: `{deepspeed: ds.json, report_to: [wandb]}`.
    What follows from the recipe (rates, batches, steps, seeds, when to log and save) is refused here."""
    processes: Positive = 1
    """How many processes of this machine train together, one a GPU; more than one needs `engine: trainer`."""

    @model_validator(mode="after")
    def _trainer_is_asked(self) -> SftConfig:
        if self.trainer and self.engine is not SftEngine.TRAINER:
            raise ValueError("trainer settings need engine: trainer")
        if self.processes > 1 and self.engine is not SftEngine.TRAINER:
            raise ValueError("several processes need engine: trainer")
        return self

    def binding(self) -> dict[str, Any]:
        """The settings that what is learned depends on; the others may change between two runs of the command."""
        return self.model_dump(mode="json", exclude={"checkpoint_every", "processes"})


class OldPolicy(StrEnum):
    """Whose log-probabilities the ratio ρ = π / π_old is taken to.

    `RECOMPUTED`: the training pass's own before the first update of the batch, so that ρ = 1 there exactly, and a
    resumed run computes the same losses to the last digit however the rollouts' batches were composed. `ROLLOUT`:
    those noted while sampling, which corrects for a sampler that computes differently (another engine, bf16).
    """

    RECOMPUTED = "recomputed"
    ROLLOUT = "rollout"


class Start(StrEnum):
    """What Stage III begins with: the bootstrapped student, or the base model (the ablation without bootstrapping)."""

    SFT = "sft"
    BASE = "base"


class GrpoConfig(Training):
    """Stage III. The paper: lr 1e-5, K = 5, β = 0.1, 1 epoch, length 10240, advantage without the std."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    decay: bool = False
    """Whether the learning rate falls in a line over the steps, the last of which has 1/steps of it. Off: constant."""
    steps: Positive = 100
    average_last: Positive = 1
    """The model that results is the mean of what learned after each of so many last steps; 1: after the last."""
    seeds_per_step: Positive = 8
    samples: Annotated[int, Field(ge=2)] = 5
    """K, the rollouts per seed."""
    beta: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 0.2
    old_policy: OldPolicy = OldPolicy.RECOMPUTED
    updates_per_batch: Positive = 1
    micro_batch: Positive = 2
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_length: Positive = 10240
    max_turns: Annotated[int, Field(ge=1, le=MAX_TURNS)] = MAX_TURNS
    max_tokens: Positive = 512
    temperature: Annotated[float, Field(gt=0)] = 1.0
    weights: RewardWeights = RewardWeights()
    shaping: Shaping = Shaping.TCSR
    alpha: Share = 0.3
    credit: Credit = Credit.SUM
    discount: Share = 1.0
    """What a later turn's reward counts for the turn before it (`credit: turn` only). Below 1, a refusal of a harmless
    turn earns less from the later refusals that it makes likelier."""
    divide_by_std: bool = False
    normalise: Normalise = Normalise.DAPO
    """How the tokens' losses become one number: `paper`, `grpo`, `dapo` or `dr_grpo`."""
    feedback: bool = True
    """Feedback Dynamics: the tutor writes `u_{t+1}`. Off: the script as written (the ablation)."""
    format_failure_reward: Share = 0.0
    """The turn reward of an answer without judgeable text: a named policy, counted in the metrics."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a group with an unscored turn is played again before it is dropped and counted."""
    benign_share: Share = 0.25
    """The share of benign scripts among those played."""
    start: Start = Start.SFT
    probe_every: Positive | None = None
    """Every so many steps the evaluation judge reads the student's answers on held-out scripts (`null`: never). It is
    not the judge that rewards: what it sees fall while the reward rises was bought with the reward."""
    probe_scripts: Annotated[int, Field(ge=2)] = 16
    """How many scripts are held out of training for it, the benign ones among them at `benign_share`."""
    tutor_price: Price | None = None
    transcripts_per_step: Positive = 8
    """How many dialogues of a step are written down to be read."""
    checkpoint_every: Positive = 5

    @model_validator(mode="after")
    def _has_as_many_steps(self) -> GrpoConfig:
        if self.average_last > self.steps:
            raise ValueError(f"average_last={self.average_last} is more than steps={self.steps}")
        return self
