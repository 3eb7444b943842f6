"""One recipe drives every stage: all its sections, and reading it from YAML with dotted overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from safer_steer.cluster import ClusterConfig
from safer_steer.config.data import BootstrapConfig, BudgetConfig, ConstructConfig
from safer_steer.config.evaluation import CacheConfig, EvalConfig, Seats
from safer_steer.config.sections import Positive, Section, Share
from safer_steer.config.training import GrpoConfig, SftConfig
from safer_steer.dialogue import AnswerFormat
from safer_steer.errors import ConfigError
from safer_steer.limits import Limits

DEFAULT_ENDPOINT = "default"


class Recipe(Section):
    """Everything a run needs to be told. Defaults are the paper's where the paper has one."""

    name: str = "recipe"
    seed: int = 0
    answer_format: AnswerFormat = AnswerFormat.PLAIN
    system_prompt: str | None = None
    open_dialogues: Positive = 32
    single_turn: bool = False
    """The ablation "single-turn data": Stages II and III see every seed's question alone, in one turn."""
    budget: BudgetConfig = BudgetConfig()
    max_undone_share: Share = 0.02
    """With more than this share of its scripts or dialogues undone, because a server gave no answer, `construct` or
    `bootstrap` ends as incomplete; the same command tries those again. Up to it they are left out and counted."""
    seats: Seats = Seats()
    construction: ConstructConfig = ConstructConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    eval: EvalConfig = EvalConfig()
    cluster: ClusterConfig = ClusterConfig()
    endpoints: dict[str, Limits] = Field(default_factory=dict)
    """Limits and prices by base URL; `default` holds for every server, and below what a server's own entry says."""
    cache: CacheConfig = CacheConfig()

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, given: dict[str, Limits]) -> dict[str, Limits]:
        found = {key.rstrip("/"): value for key, value in given.items()}
        for key in found:
            if key != DEFAULT_ENDPOINT and not key.startswith(("http://", "https://")):
                raise ValueError(f"'{key}' is neither '{DEFAULT_ENDPOINT}' nor a base URL such as https://host/v1")
        if len(found) != len(given):
            raise ValueError("a base URL stands twice, with and without a slash at its end")
        return found

    def limits(self, base_url: str) -> Limits:
        """What the server at `base_url` is asked to bear."""
        default = self.endpoints.get(DEFAULT_ENDPOINT, Limits())
        own = self.endpoints.get(base_url)
        return default if own is None else own.over(default)


def load_recipe(path: Path | None, overrides: Sequence[str] = (), *, called: str | None = None) -> Recipe:
    """Read a recipe (`None`: all defaults) and apply `key.sub=value` overrides; raises `ConfigError`.

    `called`: what errors name the file by, where the user did not name it.
    """
    values = _read_yaml(path) if path is not None else {}
    return recipe_from(values, overrides, where=path if called is None else called)


def recipe_from(values: dict[str, Any], overrides: Sequence[str] = (), where: Path | str | None = None) -> Recipe:
    """A recipe from plain values and overrides; raises `ConfigError` naming the key, or `--set`."""
    for override in overrides:
        values = apply_override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = [(_problem(dict(item)), _overridden(item["loc"], overrides)) for item in error.errors()]
        mixed = len({overridden for _, overridden in problems}) > 1
        told = "; ".join(f"--set: {problem}" if mixed and overridden else problem for problem, overridden in problems)
        place = "--set" if problems[0][1] and not mixed else where
        raise ConfigError(told, where=place, hint="`safer-steer recipe` prints every key and default") from error


def _overridden(place: Sequence[str | int], overrides: Sequence[str]) -> bool:
    """Whether the key at `place`, or one within it, was given by an override."""
    key = [str(part) for part in place]
    given = [override.partition("=")[0].strip().split(".") for override in overrides]
    return any(path[: len(key)] == key[: len(path)] for path in given)


def _problem(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    return f"unknown key '{place}'" if item["type"] == "extra_forbidden" else f"'{place}': {item['msg']}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(error.strerror or str(error), where=path, hint="check the recipe's path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not YAML: {error}", where=path) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("a recipe is a mapping of sections", where=path)
    return values


def apply_override(values: dict[str, Any], override: str) -> dict[str, Any]:
    """`values` with one `a.b=value` applied (the value is read as YAML); the input is left as it was.

    >>> apply_override({"grpo": {"samples": 5}}, "grpo.samples=8")
    {'grpo': {'samples': 8}}
    """
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"override '{override}' is not of the form section.key=value", where="--set")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': the value is not YAML", where="--set") from error
    return _set(values, parts, value, override)


def _set(values: dict[str, Any], parts: Sequence[str], value: Any, override: str) -> dict[str, Any]:
    head, *rest = parts
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"override '{override}': '{head}' is not a section", where="--set")
    return {**values, head: _set(inner, rest, value, override)}
