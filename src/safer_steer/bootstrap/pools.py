"""The training scripts divided between SFT and RL, by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from safer_steer.config import Recipe
from safer_steer.construct.dedup import script_text
from safer_steer.construct.plan import stratified
from safer_steer.construct.shingles import near_duplicates
from safer_steer.construct.splits import needs_history, select
from safer_steer.dialogue import Script, Split


@dataclass(frozen=True, slots=True)
class Pools:
    """What the training scripts are divided into. Taken out of RL: `repeats`, near-duplicates of SFT; `plain`, whose
    risk does not grow over the dialogue; `spare`, more than the recipe asks for."""

    sft: tuple[Script, ...]
    rl: tuple[Script, ...]
    repeats: tuple[Script, ...] = ()
    plain: tuple[Script, ...] = ()
    spare: tuple[Script, ...] = ()


def divide(recipe: Recipe, scripts: Sequence[Script]) -> Pools:
    """Split the training scripts by seed, stratified by kind and category; the choice depends on the recipe's seed.

    All scripts of one seed stand on one side. RL scripts that nearly repeat an SFT script are taken out.
    """
    by_seed: defaultdict[str, list[Script]] = defaultdict(list)
    for script in sorted(scripts, key=lambda script: script.id):
        if script.split in (Split.TRAIN, None):
            by_seed[script.seed_id].append(script)
    count = round(recipe.bootstrap.sft_share * len(by_seed))
    taught = set(
        stratified(list(by_seed), count, by=[lambda seed: _stratum(by_seed[seed])], key=str, rng_seed=recipe.seed)
    )
    sft = sorted((s for seed in taught for s in by_seed[seed]), key=lambda script: script.id)
    rest = sorted((s for seed in by_seed.keys() - taught for s in by_seed[seed]), key=lambda script: script.id)
    config = recipe.bootstrap
    repeats = _repeats(sft, rest, recipe.construction.near_duplicate_jaccard)
    plain = {s.id for s in rest if s.id not in repeats and not needs_history(s, config.rl_history_risk)}
    fit = [script for script in rest if script.id not in repeats | plain]
    rl = select(fit, config.rl, recipe.seed, lambda script: script)
    chosen = {script.id for script in rl}
    return Pools(
        sft=tuple(sft),
        rl=tuple(rl),
        repeats=tuple(script for script in rest if script.id in repeats),
        plain=tuple(script for script in rest if script.id in plain),
        spare=tuple(script for script in fit if script.id not in chosen),
    )


def _stratum(scripts: Sequence[Script]) -> tuple[tuple[str, ...], str]:
    """The kinds a seed became and its category."""
    return tuple(sorted({str(script.kind) for script in scripts})), scripts[0].category


def _repeats(sft: Sequence[Script], rest: Sequence[Script], threshold: float) -> set[str]:
    """Ids in `rest` that nearly repeat a script of `sft`. SFT comes first, so a repeat is found on the RL side."""
    both = [*sft, *rest]
    found = near_duplicates(map(script_text, both), threshold)
    return {both[duplicate.item].id for duplicate in found if duplicate.item >= len(sft)}
