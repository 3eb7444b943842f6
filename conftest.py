"""Modules that import verl are collected only where it is installed (`make test-verl`)."""

from importlib.util import find_spec

OURS = "src/safer_steer/train/verl"
collect_ignore = (
    [f"{OURS}/{name}.py" for name in ("engine", "entry", "loop", "output", "sampler")] if find_spec("verl") is None else []
)
