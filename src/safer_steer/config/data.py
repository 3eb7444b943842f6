"""The sections of Stages I and II: seeds, scripts, splits, and what they may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from safer_steer.config.sections import Positive, Section, Share
from safer_steer.dialogue import MAX_TURNS, Split


class TurnRange(Section):
    """How many turns: from `low` to `high`, equally often; or, with a `mean`, as equally as that mean allows."""

    low: Annotated[int, Field(ge=2, le=MAX_TURNS)]
    high: Annotated[int, Field(ge=2, le=MAX_TURNS)]
    mean: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> TurnRange:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        if self.mean is not None and not self.low <= self.mean <= self.high:
            raise ValueError(f"mean={self.mean:g} is not between low={self.low} and high={self.high}")
        return self


class BudgetConfig(Section):
    """How much each of the stages `construct` and `bootstrap` may spend on servers, over all its sittings.

    At a limit the stage stops; with a higher one the same command goes on. `cost` is in the currency of the prices that
    `endpoints` gives; every model asked must have one.
    """

    calls: Positive | None = None
    tokens: Positive | None = None
    cost: Annotated[float, Field(gt=0)] | None = None


class SeedSource(Section):
    """Where seeds come from: a loader of `seeds.LOADERS`, the file or folder it reads, and how much of it.

    `split` is the dataset's split to read, where it has several, and the one that its seeds are for.
    """

    loader: str
    path: str | None = None
    split: Split | None = None
    limit: Positive | None = None

    def __str__(self) -> str:
        return self.loader if self.path is None else f"{self.loader}:{self.path}"


def _as_sources(value: Any) -> Any:
    """`builtin`, or a file, in place of a list of sources."""
    if not isinstance(value, str):
        return value
    suffix = Path(value).suffix.lower()
    loader = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl"}.get(suffix)
    if loader is None and Path(value).is_file():
        loader = "jsonl"
    return [{"loader": value} if loader is None else {"loader": loader, "path": value}]


class ConstructConfig(Section):
    """Stage I. Turn ranges are the paper's defaults.

    `seeds` is `builtin`, a JSONL or parquet file, or a list of `{loader, path, split, limit}`.
    `strategies` are names of built-in ones or paths of YAML files; every `*.yaml` of `strategy_folder` joins them.
    """

    seeds: Annotated[tuple[SeedSource, ...], BeforeValidator(_as_sources), Field(min_length=1)] = (
        SeedSource(loader="builtin"),
    )
    skip_bad_rows: bool = False
    """Leave out seeds that are wrong, and count them, instead of stopping at the first."""
    max_seeds: Positive | None = None
    strategy_folder: str | None = None
    strategies: tuple[str, ...] = (
        "roleplay", "educational_bypass", "fiction_writer", "reverse_psychology",
        "authority_figure", "continuation_trick", "hypothetical_scenario", "emotional_urgency",
    )  # fmt: skip
    strategies_per_seed: Positive = 8
    red_team_turns: TurnRange = TurnRange(low=4, high=8)
    obfuscated_turns: TurnRange = TurnRange(low=3, high=6)
    benign_turns: TurnRange = TurnRange(low=3, high=5)
    perturb_share: Share = 0.10
    noise_sigma: Annotated[float, Field(ge=0)] = 0.03
    success_filter: bool = True
    near_duplicate_jaccard: Share = 0.8
    image_distance: Annotated[int, Field(ge=0, le=16)] | None = 4
    """Images of different splits whose 64-bit perceptual hashes differ in at most so many bits are one image, and
    train loses its script. `null`: only images of the same bytes."""
    target_max_tokens: Positive = 256


class SplitConfig(Section):
    """What a split is to look like: at most `size` dialogues, stratified by kind and category, and of the `turns`
    asked for. `null`: everything there is."""

    size: Positive | None = None
    turns: TurnRange | None = None


class BootstrapConfig(Section):
    """Stage II's filter: keep iff `min_t safety ≥ tau_safe` and `mean_t usefulness ≥ tau_help` (tutor scale 1…10)."""

    tau_safe: Annotated[int, Field(ge=1, le=10)] = 8
    tau_help: Annotated[float, Field(ge=1, le=10)] = 7.0
    sft_share: Share = 0.6
    """Share of the scripts (stratified, by seed) that become SFT dialogues; the rest is the RL pool."""
    sft: SplitConfig = SplitConfig()
    rl: SplitConfig = SplitConfig()
    bench: SplitConfig = SplitConfig()
    rl_history_risk: Share = 0.0
    """RL keeps the unsafe scripts whose `splits.history_risk` is at least this: their risk grows over the dialogue."""
