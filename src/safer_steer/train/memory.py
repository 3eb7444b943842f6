"""How much memory a training stage will take, from a model's shape alone: said before anything is loaded.

An estimate of the large things: weights, reference, gradients, optimiser, activations, logits, keys and values. It
leaves out the CUDA context (about 0.5 GiB), the allocator's slack and the vision tower's activations; keep a tenth.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safer_steer.config import Dtype, GrpoConfig, LoraConfig, Part, SftConfig
from safer_steer.dialogue import Record
from safer_steer.errors import WeightsError
from safer_steer.train.parts import part_of

GIB = 2**30
MASTER = 4
"""Bytes of a weight that learns, and of its gradient; AdamW keeps twice as much."""
HEAD_CHUNK = 512
LORA_SITES = {
    "q_proj": ("hidden", "queries"), "k_proj": ("hidden", "keys"), "v_proj": ("hidden", "keys"),
    "o_proj": ("queries", "hidden"), "gate_proj": ("hidden", "inner"), "up_proj": ("hidden", "inner"),
    "down_proj": ("inner", "hidden"),
}  # fmt: skip
"""What the layers that a LoRA may sit on map from and to."""


class ModelShape(Record):
    """The sizes that memory follows from. `queries` and `keys` are heads times width; parameters count by part."""

    language: int
    vision: int
    projector: int
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        return self.language + self.vision + self.projector


class MemoryEstimate(Record):
    """Bytes by what they are for. Gradients and activations are not there while answers are sampled, nor keys and
    values while weights are updated: the `peak` is the larger of the two."""

    weights: int
    reference: int
    optimiser: int
    gradients: int
    activations: int
    logits: int
    cache: int

    @property
    def peak(self) -> int:
        kept = self.weights + self.reference + self.optimiser
        return kept + max(self.gradients + self.activations + self.logits, self.cache)

    def __str__(self) -> str:
        parts = [(name, size) for name, size in self.model_dump().items() if size]
        return f"{self.peak / GIB:.1f} GiB (" + ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts) + ")"


def shape_of(folder: Path) -> ModelShape:
    """The shape of a model folder, from `config.json` and the headers of its safetensors; no weight is read.

    Raises `WeightsError` when the folder has neither.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        counts = _parameters(folder)
        text = config.get("text_config", config)
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        width = text.get("head_dim") or hidden // heads
        return ModelShape(
            language=counts[None],
            vision=counts[Part.VISION],
            projector=counts[Part.PROJECTOR],
            layers=text["num_hidden_layers"],
            hidden=hidden,
            inner=text["intermediate_size"],
            queries=heads * width,
            keys=(text.get("num_key_value_heads") or heads) * width,
            vocabulary=text["vocab_size"],
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise WeightsError(f"its size cannot be read: {error}", where=folder) from error


def _parameters(folder: Path) -> dict[Part | None, int]:
    counts: dict[Part | None, int] = {None: 0, Part.VISION: 0, Part.PROJECTOR: 0}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in header.items():
            if name != "__metadata__":
                size = 1
                for side in entry["shape"]:
                    size *= side
                counts[part_of(name)] += size
    if not any(counts.values()):
        raise ValueError("no weights in safetensors files")
    return counts


def estimate(shape: ModelShape, config: SftConfig | GrpoConfig, *, open_dialogues: int = 0) -> MemoryEstimate:
    """What `config` takes on a model of this shape. `open_dialogues`: how many are sampled side by side (GRPO)."""
    size = 2 if config.dtype is Dtype.BFLOAT16 else 4
    parts = {Part.VISION: shape.vision, Part.PROJECTOR: shape.projector}
    beside = sum(count for part, count in parts.items() if part not in config.frozen)
    adapters = 0 if config.lora is None else lora_parameters(shape, config.lora)
    learning = beside + (shape.language if config.lora is None else adapters)
    stays = shape.parameters + adapters - learning
    grpo = isinstance(config, GrpoConfig)
    copied = shape.parameters * size if config.lora is None else beside * MASTER
    tokens = config.micro_batch * config.max_length
    rows = min(open_dialogues, config.seeds_per_step * config.samples) if isinstance(config, GrpoConfig) else 0
    return MemoryEstimate(
        weights=learning * MASTER + stays * size,
        reference=copied if grpo or config.lora is not None else 0,
        optimiser=learning * 2 * MASTER,
        gradients=learning * MASTER,
        activations=tokens * activation_bytes(shape, size, checkpointing=config.gradient_checkpointing),
        logits=min(HEAD_CHUNK, tokens) * shape.vocabulary * 4 * 3,
        cache=rows * config.max_length * 2 * shape.layers * shape.keys * size if grpo else 0,
    )


def activation_bytes(shape: ModelShape, size: int, *, checkpointing: bool) -> int:
    """What one token leaves in memory for the way back, all layers together, with attention that keeps no matrix.

    A layer keeps its input, two normalised copies (and their fp32 forms), queries, keys, values, the attention's
    output, and four widths of the feed-forward part. With checkpointing, every layer's input and one layer's all.
    """
    layer = size * (5 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 4 * shape.inner) + 4 * 2 * shape.hidden
    if checkpointing:
        return shape.layers * shape.hidden * size + layer
    return shape.layers * layer


def lora_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """The adapters' weights where `lora.targets` are plain layer names; other targets count as every layer."""
    sizes: Mapping[str, int] = shape.model_dump()
    sites = [site for name, site in LORA_SITES.items() if name in lora.targets]
    chosen = sites if len(sites) == len(lora.targets) else list(LORA_SITES.values())
    return shape.layers * lora.rank * sum(sizes[a] + sizes[b] for a, b in chosen)


QWEN2_5_VL_3B = ModelShape(
    language=3_085_938_688, vision=626_000_000, projector=42_700_000, layers=36, hidden=2048, inner=11008,
    queries=2048, keys=256, vocabulary=151936,
)  # fmt: skip
"""Qwen2.5-VL-3B-Instruct by its published configuration (vision and projector rounded)."""
QWEN2_5_VL_7B = ModelShape(
    language=7_615_616_512, vision=632_000_000, projector=45_000_000, layers=28, hidden=3584, inner=18944,
    queries=3584, keys=512, vocabulary=152064,
)  # fmt: skip
"""Qwen2.5-VL-7B-Instruct, likewise."""


def announcement(folder: Path, config: SftConfig | GrpoConfig, open_dialogues: int = 0) -> str:
    """One line on what a stage is going to take, or why that cannot be said."""
    try:
        return f"memory, estimated: {estimate(shape_of(folder), config, open_dialogues=open_dialogues)}"
    except WeightsError as error:
        return f"memory: not estimated ({error.what})"
