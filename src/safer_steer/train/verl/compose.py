"""verl's own configuration with ours laid over it, checked by verl's own validation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safer_steer.errors import ConfigError
from safer_steer.store import write_atomic
from safer_steer.train.verl.plugin import check_installed, check_registered

ADDED = "+"
"""A key that verl's configuration does not have begins with it, as on Hydra's command line."""


def composed(name: str, keys: Mapping[str, Any]) -> Any:
    """verl's configuration `name` (`ppo_trainer`, `sft_trainer_engine`) with `keys`, as an OmegaConf mapping.

    Raises `ConfigError` for a key that this verl does not know, and when verl is not installed.
    """
    check_installed()
    import verl.trainer
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    folder = Path(str(verl.trainer.__file__)).parent / "config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose(name)
    for key, value in keys.items():
        try:
            OmegaConf.update(config, key.removeprefix(ADDED), value, force_add=key.startswith(ADDED))
        except OmegaConfBaseException as error:
            raise ConfigError(f"verl takes no such value: {error}", where=key) from error
    return config


def validated(config: Any) -> None:
    """Let verl check the configuration of a GRPO run; raises `ConfigError` with what it says.

    Besides `validate_config` this builds the rollout servers' record, whose checks verl runs only on the workers.
    """
    check_registered()
    from hydra.errors import HydraException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    reference = need_reference_policy(config)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config=config, use_reference_policy=reference, use_critic=need_critic(config))
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    except (AssertionError, ValueError, TypeError, KeyError, NotImplementedError, HydraException) as error:
        raise ConfigError(f"verl refuses the configuration: {error}", where="--engine verl") from error
    if reference != bool(config.actor_rollout_ref.actor.use_kl_loss):
        raise ConfigError("verl would not build the reference policy that grpo.beta needs", where="grpo.beta")


def yaml_of(config: Any) -> str:
    """The configuration with its interpolations resolved, as YAML. Raises `ConfigError` where they lead nowhere."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(OmegaConf.to_yaml(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"verl's configuration does not resolve: {error}", where="--engine verl") from error


def write_config(path: Path, config: Any) -> None:
    """Write the configuration as verl's command reads it."""
    write_atomic(path, yaml_of(config))
