"""Which part of a vision-language model a module or parameter belongs to, by its name."""

from __future__ import annotations

from safer_steer.config import Part

EYES = {Part.PROJECTOR: ("projector", "connector", "merger"), Part.VISION: ("vision", "visual")}
"""What the module names of these parts contain in the transformers families; the first that fits counts (Qwen's
merger lies inside `visual`)."""


def sees(name: str) -> bool:
    """Whether a module or parameter belongs to a vision tower or projector, by its name.

    >>> sees("model.visual.blocks.0.attn.q_proj"), sees("model.language_model.layers.0.self_attn.q_proj")
    (True, False)
    """
    return part_of(name) is not None


def part_of(name: str) -> Part | None:
    """The part that a module or parameter belongs to, by its name; None: the language part.

    >>> part_of("model.visual.blocks.0.attn.q_proj"), part_of("model.visual.merger.mlp.0"), part_of("lm_head")
    (<Part.VISION: 'vision'>, <Part.PROJECTOR: 'projector'>, None)
    """
    places = name.lower().split(".")
    return next((part for part, eyes in EYES.items() if any(eye in place for place in places for eye in eyes)), None)
