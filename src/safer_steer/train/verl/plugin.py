"""What this package brings to verl, and the check that verl took it.

Entry point `verl.plugins` (`entry.py`) is loaded by every process that imports verl. When a plugin fails to load,
verl only whispers (a DEBUG line) and stops hours later at an unknown estimator. So `check_registered` is asked at the
start, by the launcher and by every agent loop.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec

from safer_steer.errors import ConfigError, StageError
from safer_steer.reward import Credit
from safer_steer.train.verl import VERL_VERSION
from safer_steer.train.verl.advantage import estimator, estimator_name

GROUP = "verl.plugins"
VALUE_HEAD = "AutoModelForCausalLMWithValueHead"
_HINT = "pip install 'safer-steer[verl]' --constraint constraints-verl.txt"


def register() -> None:
    """Register the advantage estimators. Idempotent: verl refuses a second function under the same name."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, register_adv_est

    for credit in Credit:
        if estimator_name(credit) not in ADV_ESTIMATOR_REGISTRY:
            register_adv_est(estimator_name(credit))(estimator(credit))


def check_installed() -> None:
    """Raise `ConfigError` unless the verl this was written for is installed."""
    try:
        found = version("verl")
    except PackageNotFoundError as error:
        raise ConfigError("verl is not installed", where="--engine verl", hint=_HINT) from error
    if found != VERL_VERSION:
        raise ConfigError(f"verl {found} is installed, not {VERL_VERSION}", where="--engine verl", hint=_HINT)
    _check_trl()


def _check_trl() -> None:
    """Raise `ConfigError` where verl would stop, minutes later, at a class that newer trl no longer has."""
    if find_spec("trl") is None:
        return
    for module in ("trl.experimental.ppo", "trl"):
        with contextlib.suppress(ImportError):
            if hasattr(import_module(module), VALUE_HEAD):
                return
    what = f"verl {VERL_VERSION} does not work beside the trl that is installed: it wants {VALUE_HEAD} of it"
    raise ConfigError(what, where="--engine verl", hint="pip uninstall trl: nothing here needs it on a cluster")


def check_registered() -> None:
    """Raise `StageError` unless importing verl registered what this package brings."""
    import verl  # noqa: F401  (loads the plugins)
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    missing = [name for name in map(estimator_name, Credit) if name not in ADV_ESTIMATOR_REGISTRY]
    if not missing:
        return
    known = [point.value for point in entry_points(group=GROUP)]
    raise StageError(
        f"verl did not load this package's plugin: {', '.join(missing)} not registered (entry points: {known})",
        where=GROUP,
        hint="reinstall safer-steer on this node, and leave VERL_USE_EXTERNAL_PLUGINS unset or naming safer_steer",
    )
