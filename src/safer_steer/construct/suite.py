"""`steer-mini`, the built-in held-out suite: forty dialogues of 2 to 10 turns from the test seeds.

One red-team and one obfuscated dialogue for each of the fourteen harm categories and twelve benign ones, the eight
strategies in turn. It depends on nothing that a recipe says, so every run is measured on the same dialogues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from safer_steer.actors.generating import STRATEGIES, load_strategy
from safer_steer.actors.offline.generator import OfflineGenerator
from safer_steer.construct.plan import Order, draw, stratified
from safer_steer.dialogue import Script, ScriptKind, Seed, SeedKind, Split
from safer_steer.image_store import ImageStore
from safer_steer.seeds import load_builtin, materialise_images

NAMES = {Split.TEST: "steer-mini", Split.VAL: "steer-mini-val"}

TURNS = {
    ScriptKind.RED_TEAM: (2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 8, 8, 10),
    ScriptKind.OBFUSCATED: (2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 8, 10),
    ScriptKind.BENIGN: (2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 6, 8),
}
"""How long the dialogues of each kind are; they are dealt out by seeded lot. The mean of all is 5.05."""

_LOT = 2604  # fixes every choice below; not the recipe's seed

T = TypeVar("T")


def build_steer_mini(images: ImageStore, split: Split = Split.TEST) -> tuple[Script, ...]:
    """The suite, sorted by id, with its images put into `images`; `Split.VAL` gives the one to tune on.

    Validation has fewer seeds: a category with a single one uses it twice, and there are as many benign dialogues
    as benign seeds. Raises `KeyError` for the training split, which is no suite.
    """
    name = NAMES[split]
    generator = OfflineGenerator()
    ordered = list(suite_orders(load_builtin(split)))
    materialise_images(images, {ref.name for order in ordered for ref in order.seed.images if ref.name is not None})
    scripts = [_now(_write(generator, order)).model_copy(update={"suite": name}) for order in ordered]
    return tuple(sorted(scripts, key=lambda script: script.id))


def suite_orders(seeds: Sequence[Seed]) -> Iterator[Order]:
    """What to write for a suite from these seeds: pure, and independent of their order."""
    harmful = [seed for seed in seeds if seed.kind is SeedKind.HARMFUL]
    benign = [seed for seed in seeds if seed.kind is SeedKind.BENIGN]
    strategies = _dealt(sorted(path.stem for path in STRATEGIES.glob("*.yaml")), "strategies")
    first, second = one_per_category(harmful, 0), one_per_category(harmful, 1)
    for number, (seed, turns) in enumerate(zip(first, _lengths(ScriptKind.RED_TEAM, len(first)), strict=True)):
        yield _order(seed, ScriptKind.RED_TEAM, turns, strategies[number % len(strategies)])
    for seed, turns in zip(second, _lengths(ScriptKind.OBFUSCATED, len(second)), strict=True):
        yield _order(seed, ScriptKind.OBFUSCATED, turns)
    count = len(TURNS[ScriptKind.BENIGN])
    chosen = stratified(benign, count, by=[lambda s: s.borderline, lambda s: s.category], key=_id, rng_seed=_LOT)
    for seed, turns in zip(chosen, _lengths(ScriptKind.BENIGN, len(chosen)), strict=True):
        yield _order(seed, ScriptKind.BENIGN, turns)


def one_per_category(seeds: Sequence[Seed], number: int) -> list[Seed]:
    """From every category its seed of this number by lot (counting round), in an order of its own lot."""
    categories: defaultdict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        categories[seed.category].append(seed)
    members = {name: _dealt(found, "member", key=_id) for name, found in categories.items()}
    return [members[name][number % len(members[name])] for name in _dealt(sorted(members), "category", number)]


def _id(seed: Seed) -> str:
    return seed.id


def _lengths(kind: ScriptKind, count: int) -> list[int]:
    deck = list(TURNS[kind])
    Random(draw(_LOT, "turns", kind)).shuffle(deck)
    return [deck[number % len(deck)] for number in range(count)]


def _order(seed: Seed, kind: ScriptKind, turns: int, strategy: str | None = None) -> Order:
    return Order(seed=seed, kind=kind, strategy=strategy, turns=turns, rng_seed=draw(_LOT, seed.id, kind))


def _dealt(items: Sequence[T], *lot: object, key: Callable[[T], str] = str) -> list[T]:
    return sorted(items, key=lambda item: draw(_LOT, *lot, key(item)))


async def _write(generator: OfflineGenerator, order: Order) -> Script:
    if order.strategy is not None:
        return await generator.red_team(order.seed, load_strategy(order.strategy), order.turns, order.rng_seed)
    ask = generator.benign if order.kind is ScriptKind.BENIGN else generator.obfuscated
    return await ask(order.seed, order.turns, order.rng_seed)


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, so that a suite can be built inside and outside of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    coroutine.close()
    raise RuntimeError("the offline generator waited for something")
