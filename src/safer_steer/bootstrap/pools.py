"""The training scripts divided between SFT and RL, by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from safer_steer.bootstrap.shelf import Shelf
from safer_steer.config import Recipe
from safer_steer.construct.dedup import script_text
from safer_steer.construct.plan import stratified
from safer_steer.construct.shingles import Shingler, near_duplicate_sets
from safer_steer.construct.splits import Card, needs_history, select
from safer_steer.dialogue import Split


@dataclass(frozen=True, slots=True)
class Pools:
    """What the training scripts are divided into. Taken out of RL: `repeats`, near-duplicates of SFT; `plain`, whose
    risk does not grow over the dialogue; `spare`, more than the recipe asks for."""

    sft: tuple[Card, ...]
    rl: tuple[Card, ...]
    repeats: tuple[Card, ...] = ()
    plain: tuple[Card, ...] = ()
    spare: tuple[Card, ...] = ()


def divide(recipe: Recipe, shelf: Shelf) -> Pools:
    """Split the training scripts by seed, stratified by kind and category; the choice depends on the recipe's seed.

    All scripts of one seed stand on one side. RL scripts that nearly repeat an SFT script are taken out.
    """
    by_seed: defaultdict[str, list[Card]] = defaultdict(list)
    for card in shelf.cards:
        if card.split in (Split.TRAIN, None):
            by_seed[card.seed_id].append(card)
    count = round(recipe.bootstrap.sft_share * len(by_seed))
    taught = set(
        stratified(list(by_seed), count, by=[lambda seed: _stratum(by_seed[seed])], key=str, rng_seed=recipe.seed)
    )
    sft = sorted((card for seed in taught for card in by_seed[seed]), key=lambda card: card.id)
    rest = sorted((card for seed in by_seed.keys() - taught for card in by_seed[seed]), key=lambda card: card.id)
    config = recipe.bootstrap
    repeats = _repeats(shelf, sft, rest, recipe.construction.near_duplicate_jaccard)
    plain = {c.id for c in rest if c.id not in repeats and not needs_history(c, config.rl_history_risk)}
    fit = [card for card in rest if card.id not in repeats | plain]
    rl = select(fit, config.rl, recipe.seed)
    chosen = {card.id for card in rl}
    return Pools(
        sft=tuple(sft),
        rl=tuple(rl),
        repeats=tuple(card for card in rest if card.id in repeats),
        plain=tuple(card for card in rest if card.id in plain),
        spare=tuple(card for card in fit if card.id not in chosen),
    )


def _stratum(cards: Sequence[Card]) -> tuple[tuple[str, ...], str]:
    """The kinds a seed became and its category."""
    return tuple(sorted({str(card.kind) for card in cards})), cards[0].category


def _repeats(shelf: Shelf, sft: Sequence[Card], rest: Sequence[Card], threshold: float) -> set[str]:
    """Ids in `rest` that nearly repeat a script of `sft`."""
    both, shingler = [*sft, *rest], Shingler()
    sets = [shingler(script_text(script)) for script in shelf.scripts(both)]
    sides = [0] * len(sft) + [1] * len(rest)
    return {both[duplicate.item].id for duplicate in near_duplicate_sets(sets, threshold, sides)}
