"""Where single-turn seeds `(x_i, q_i)` come from: the built-in set, and users' own JSONL files."""

from safer_steer.seeds.builtin import BENIGN_KINDS, HARM_CATEGORIES, load_builtin
from safer_steer.seeds.images import materialise_images
from safer_steer.seeds.jsonl import load_jsonl

__all__ = ["BENIGN_KINDS", "HARM_CATEGORIES", "load_builtin", "load_jsonl", "materialise_images"]
