"""Where single-turn seeds `(x_i, q_i)` come from: the built-in set, released datasets, and users' own files."""

from safer_steer.seeds.builtin import BENIGN_KINDS, HARM_CATEGORIES, load_builtin
from safer_steer.seeds.images import materialise_images
from safer_steer.seeds.loaders import LOADERS, Loaded, Loader, load_seeds
from safer_steer.seeds.plain import load_jsonl

__all__ = [
    "BENIGN_KINDS",
    "HARM_CATEGORIES",
    "LOADERS",
    "Loaded",
    "Loader",
    "load_builtin",
    "load_jsonl",
    "load_seeds",
    "materialise_images",
]
