"""Modules that import verl are collected only where it is installed (`make test-verl`); test shims never are."""

from importlib.util import find_spec

OURS = "src/safer_steer/train/verl"
collect_ignore = ["tests/on_verl/cpu_shims.py", "tests/on_verl/tiny_qwen.py"]
if find_spec("verl") is None:
    collect_ignore += [f"{OURS}/{name}.py" for name in ("engine", "entry", "loop", "output", "sampler")]
