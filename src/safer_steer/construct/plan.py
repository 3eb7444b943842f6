"""What Stage I is going to write, and every seeded choice in it. Pure: no actor is asked, nothing is read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from safer_steer.config import ConstructConfig, Recipe, TurnRange
from safer_steer.construct.dedup import PRECEDENCE
from safer_steer.construct.lengths import drawn
from safer_steer.dialogue import ScriptKind, Seed, SeedKind, Split, stable_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """One script to be written: of which seed, which kind, under which strategy, how many turns."""

    seed: Seed
    kind: ScriptKind
    strategy: str | None
    turns: int
    rng_seed: int

    @property
    def key(self) -> str:
        """What resume goes by: the same for the same seed, kind and strategy."""
        return stable_id(self.seed.id, self.kind, self.strategy)

    @property
    def is_filtered(self) -> bool:
        """Whether the success filter decides over it: the red-team scripts that will be trained on."""
        return self.kind is ScriptKind.RED_TEAM and self.seed.split is Split.TRAIN


def draw(*parts: object) -> int:
    """A 31-bit number that follows from the parts alone: the seed of one random choice.

    >>> draw(0, "seed-1") == draw(0, "seed-1") != draw(1, "seed-1")
    True
    """
    return int(stable_id("draw", *parts), 16) % 2**31


def placed(seed: Seed) -> Seed:
    """The seed with a split: one that names none is for training."""
    return seed if seed.split is not None else seed.model_copy(update={"split": Split.TRAIN})


def choose_seeds(seeds: Iterable[Seed], limit: int | None, rng_seed: int) -> list[Seed]:
    """At most `limit` distinct seeds, sorted by id, stratified by split, kind and category; all have a split."""
    ready = distinct(seeds)
    if limit is None or limit >= len(ready):
        return ready
    criteria = (lambda s: s.split, lambda s: s.kind, lambda s: s.category)
    chosen = stratified(ready, limit, by=criteria, key=lambda s: s.id, rng_seed=rng_seed)
    return sorted(chosen, key=lambda seed: seed.id)


def distinct(seeds: Iterable[Seed]) -> list[Seed]:
    """The seeds without those that ask the same words of the same images as another; test keeps its own first."""
    first: dict[tuple[str, tuple[str, ...]], Seed] = {}
    for seed in sorted(map(placed, seeds), key=lambda seed: (PRECEDENCE[seed.split], seed.id)):
        words = " ".join(re.findall(r"\w+", seed.question.casefold()))
        first.setdefault((words, tuple(sorted(ref.sha256 for ref in seed.images))), seed)
    return sorted(first.values(), key=lambda seed: seed.id)


def choose_strategies(seed: Seed, strategies: Sequence[str], count: int, rng_seed: int) -> tuple[str, ...]:
    """`count` of the strategies for this seed, in their given order; a choice that no other seed influences."""
    ranked = sorted(strategies, key=lambda strategy: draw(rng_seed, "strategy", seed.id, strategy))
    chosen = set(ranked[:count])
    return tuple(strategy for strategy in strategies if strategy in chosen)


def orders(seed: Seed, config: ConstructConfig, strategies: Sequence[str], rng_seed: int) -> Iterator[Order]:
    """Everything to be written from one seed.

    A benign seed becomes a benign script; a harmful one obfuscated and red-team scripts and, from its benign rewrite,
    a benign one too, unless it comes with `slots`: those (the built-in ones) have benign seeds of their own beside
    them. The number of turns is drawn from the recipe's range; a seed in steps gets room for all of them.
    """

    def order(kind: ScriptKind, strategy: str | None, lengths: TurnRange) -> Order:
        own = draw(rng_seed, seed.id, kind, strategy)
        turns = max(drawn(lengths, own), min(len(seed.steps), lengths.high))
        return Order(seed=seed, kind=kind, strategy=strategy, turns=turns, rng_seed=own)

    if seed.kind is SeedKind.BENIGN or seed.slots is None:
        yield order(ScriptKind.BENIGN, None, config.benign_turns)
    if seed.kind is SeedKind.HARMFUL:
        yield order(ScriptKind.OBFUSCATED, None, config.obfuscated_turns)
        for strategy in choose_strategies(seed, strategies, config.strategies_per_seed, rng_seed):
            yield order(ScriptKind.RED_TEAM, strategy, config.red_team_turns)


def plan(recipe: Recipe, seeds: Iterable[Seed], strategies: Sequence[str]) -> Iterator[Order]:
    """The orders of a whole run, in a fixed sequence. `seeds` as `choose_seeds` gives them."""
    for seed in seeds:
        yield from orders(seed, recipe.construction, strategies, recipe.seed)


def expected(recipe: Recipe, seeds: Sequence[Seed], strategies: Sequence[str]) -> dict[str, Any]:
    """How much Stage I will write: `seeds`, `scripts` and `turns` by kind. `seeds` as `choose_seeds` gives them."""
    scripts: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    for order in plan(recipe, seeds, strategies):
        scripts[order.kind.value] += 1
        turns[order.kind.value] += order.turns
    return {"seeds": len(seeds), "scripts": dict(scripts), "turns": dict(turns)}


def stratified(
    items: Sequence[T], count: int, *, by: Sequence[Callable[[T], Hashable]], key: Callable[[T], str], rng_seed: int
) -> list[T]:
    """`count` of the items: shared out among the groups of the first criterion, each share among those of the next,
    and so on, always in proportion (`apportion`); within the last, by seeded lot.

    The choice does not depend on the order of `items`. With several criteria a rare group of the first (a small
    split) gets its share even where each of its own groups would be rounded to nothing.
    """
    if not by:
        return sorted(items, key=lambda item: draw(rng_seed, "member", key(item)))[:count]
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    for item in sorted(items, key=key):
        groups[by[0](item)].append(item)
    shares = apportion({name: len(members) for name, members in groups.items()}, count, rng_seed)
    return [
        item
        for name, members in groups.items()
        for item in stratified(members, shares[name], by=by[1:], key=key, rng_seed=rng_seed)
    ]


def apportion(sizes: dict[Hashable, int], count: int, rng_seed: int) -> dict[Hashable, int]:
    """Divide `count` among groups in proportion to their sizes; remainders go to the largest, ties by seeded lot.

    >>> apportion({"a": 6, "b": 3}, 6, rng_seed=0)
    {'a': 4, 'b': 2}
    >>> apportion({"a": 2}, 5, rng_seed=0)
    {'a': 2}
    """
    total = sum(sizes.values())
    if total == 0:
        return dict(sizes)
    count = min(count, total)
    shares = {name: count * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), draw(rng_seed, "stratum", name)))
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares
