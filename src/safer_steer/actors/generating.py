"""Stage I's writers: what a `Generator` offers, and the attack strategies it writes under.

Two generators implement it: `actors.offline.generator` (deterministic, from sentence frames) and
`actors.generator_llm.LlmGenerator` (any chat model).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import yaml
from pydantic import Field, ValidationError

from safer_steer.dialogue import Record, Script, ScriptKind, Seed, UserTurn, stable_id
from safer_steer.errors import ConfigError

STRATEGIES = Path(__file__).parent.parent / "strategies"
"""The folder of the strategies that come with the package, one YAML file each."""


class Probe(Record):
    """Intent decomposition: a benign rewrite of a seed and one whose risk is hidden."""

    benign: Annotated[str, Field(min_length=1)]
    obfuscated: Annotated[str, Field(min_length=1)]


class Strategy(Record):
    """One attack strategy of the set A, at the level of category and manner: no operational detail.

    `techniques` say how it escalates; `frames` are the offline generator's sentence frames by move.
    """

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    description: Annotated[str, Field(min_length=1)]
    techniques: Annotated[tuple[str, ...], Field(min_length=1)]
    frames: Mapping[str, tuple[str, ...]] = {}


@runtime_checkable
class Generator(Protocol):
    """Writes user-side scripts from a single-turn seed. Every method raises `ActorError`.

    `turns` is the number of user turns to write; `rng_seed` makes the writing repeatable.
    """

    name: str

    async def probe(self, seed: Seed) -> Probe:
        """Rewrite the seed's question once harmlessly and once with its risk obscured."""
        ...

    async def analyse(self, seed: Seed) -> str | None:
        """What the images offer an attack: dual-use items, text in them, missing safety measures. `None`: no image.

        It is the same under every strategy, so it is made once and handed to `red_team`.
        """
        ...

    async def obfuscated(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        """Spread the goal over turns that are each harmless alone: vague first, specific last.

        The seed's question is the goal with its risk already hidden, as `probe` gives it.
        """
        ...

    async def red_team(
        self, seed: Seed, strategy: Strategy, turns: int, rng_seed: int, findings: str | None = None
    ) -> Script:
        """Plan an escalating dialogue under one strategy; every turn has an aim and a risk level 1–5.

        `findings` are what `analyse` said; without them a seed with images is analysed again.
        """
        ...

    async def benign(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        """Split a harmless problem into a natural conversation whose last turn asks for the answer.

        The seed's question is harmless: a benign seed's own, or the harmless rewrite that `probe` gives.
        """
        ...


def script_of(
    seed: Seed, kind: ScriptKind, turns: Sequence[UserTurn], rng_seed: int, *, strategy: str | None = None
) -> Script:
    """The script that `seed` became. Its id follows from the seed, kind, strategy and `rng_seed` alone."""
    return Script(
        id=stable_id("script", seed.id, kind, strategy, rng_seed),
        seed_id=seed.id,
        kind=kind,
        category=seed.category,
        images=seed.images,
        turns=tuple(turns),
        split=seed.split,
        strategy=strategy,
        question=seed.question,
        facts=seed.facts,
        slots=seed.slots,
        borderline=seed.borderline,
    )


def load_strategy(name: str) -> Strategy:
    """A strategy by the name of a built-in file, or by the path of a user's `.yaml`; raises `ConfigError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else STRATEGIES / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in STRATEGIES.glob("*.yaml")))
        raise ConfigError(f"no strategy '{name}'", where="strategies", hint=f"known: {known}") from error
    try:
        return Strategy.from_json(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"not a strategy file: {error}", where=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"field '{place}': {first['msg']}", where=path) from error


def load_strategies(names: Sequence[str], folder: str | None = None) -> tuple[Strategy, ...]:
    """Several strategies in the order named, then every `*.yaml` of a user's `folder` by name; raises `ConfigError`."""
    more: list[str] = []
    if folder is not None:
        more = sorted(str(path) for path in Path(folder).glob("*.yaml"))
        if not more:
            hint = "give a folder of strategy files; the built-in ones show the form"
            raise ConfigError("there is no *.yaml in the folder", where=folder, hint=hint)
    return tuple(load_strategy(name) for name in (*names, *more))
