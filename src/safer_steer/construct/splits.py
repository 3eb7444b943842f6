"""What a split is to look like: how long its dialogues are, how they are mixed, and whose risk needs their history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from safer_steer.config import SplitConfig
from safer_steer.construct.lengths import quotas
from safer_steer.construct.plan import draw, stratified
from safer_steer.dialogue import Script

T = TypeVar("T")


def select(items: Sequence[T], config: SplitConfig, rng_seed: int, script: Callable[[T], Script]) -> list[T]:
    """The items a split takes, sorted by their script's id; the choice does not depend on their order.

    How many of each length follows from `config.turns` (see `lengths.quotas`); among those of one length the choice is
    stratified by kind and category. Without a size and turns: all of them.
    """
    ordered = sorted(items, key=lambda item: script(item).id)
    if config.turns is None:
        count = len(ordered) if config.size is None else config.size
        return sorted(_mixed(ordered, count, rng_seed, script), key=lambda item: script(item).id)
    by_length: defaultdict[int, list[T]] = defaultdict(list)
    for item in ordered:
        by_length[len(script(item).turns)].append(item)
    available = {length: len(members) for length, members in by_length.items()}
    wanted = quotas(available, len(ordered) if config.size is None else config.size, config.turns)
    chosen = [
        item
        for length, count in sorted(wanted.items())
        for item in _mixed(by_length[length], count, draw(rng_seed, "length", length), script)
    ]
    return sorted(chosen, key=lambda item: script(item).id)


def _mixed(items: Sequence[T], count: int, rng_seed: int, script: Callable[[T], Script]) -> list[T]:
    by = (lambda item: script(item).kind, lambda item: script(item).category)
    return stratified(items, count, by=by, key=lambda item: script(item).id, rng_seed=rng_seed)


def history_risk(script: Script) -> float | None:
    """How much of a dialogue's risk grows over it, from 0 to 1; `None` where the turns carry no planned risk.

    `(r_max − r_1) / 4 · (t_max − 1) / (T − 1)`, with `t_max` the first turn of the greatest risk: 1 where a harmless
    opening leads to the worst at the very end, 0 where the first turn says it all. A judge that sees one turn alone
    can find what has 0; what has 1 can only be seen with the history.

    >>> from safer_steer.dialogue import ScriptKind, UserTurn
    >>> turns = tuple(UserTurn(text="…", risk=risk) for risk in (1, 2, 5))
    >>> plan = Script(id="s", seed_id="s", kind=ScriptKind.RED_TEAM, category="c", images=(), turns=turns)
    >>> history_risk(plan), history_risk(plan.model_copy(update={"turns": turns[::-1]}))
    (1.0, 0.0)
    """
    risks = [turn.risk for turn in script.turns if turn.risk is not None]
    if len(risks) < len(script.turns):
        return None
    if len(risks) == 1:
        return 0.0
    worst = max(risks)
    return (worst - risks[0]) / 4 * risks.index(worst) / (len(risks) - 1)


def needs_history(script: Script, least: float) -> bool:
    """Whether an unsafe script's risk grows enough over the dialogue; a benign one has none and always passes."""
    if not script.is_unsafe or least == 0:
        return True
    grown = history_risk(script)
    return grown is not None and grown >= least
