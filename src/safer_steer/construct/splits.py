"""What a split is to look like: how long its dialogues are, how they are mixed, and whose risk needs their history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import intern

from safer_steer.config import SplitConfig
from safer_steer.construct.lengths import quotas
from safer_steer.construct.plan import draw, stratified
from safer_steer.dialogue import Script, ScriptKind, Split


@dataclass(frozen=True, slots=True)
class Card:
    """What choosing among scripts needs to know of one. `at` is the caller's: where the script lies on disk."""

    id: str
    seed_id: str
    kind: ScriptKind
    category: str
    split: Split | None
    length: int
    risk: float | None
    at: int = 0


def card_of(script: Script, at: int = 0) -> Card:
    """A script's card; its `risk` is the `history_risk`."""
    return Card(
        id=script.id,
        seed_id=script.seed_id,
        kind=script.kind,
        category=intern(script.category),
        split=script.split,
        length=len(script.turns),
        risk=history_risk(script),
        at=at,
    )


def select(cards: Iterable[Card], config: SplitConfig, rng_seed: int) -> list[Card]:
    """The cards a split takes, sorted by id; the choice does not depend on their order.

    How many of each length follows from `config.turns` (see `lengths.quotas`); among those of one length the choice is
    stratified by kind and category. Without a size and turns: all of them.
    """
    ordered = sorted(cards, key=_id)
    count = len(ordered) if config.size is None else config.size
    if config.turns is None:
        return sorted(_mixed(ordered, count, rng_seed), key=_id)
    by_length: defaultdict[int, list[Card]] = defaultdict(list)
    for card in ordered:
        by_length[card.length].append(card)
    available = {length: len(members) for length, members in by_length.items()}
    wanted = quotas(available, count, config.turns)
    chosen = [
        card
        for length, number in sorted(wanted.items())
        for card in _mixed(by_length[length], number, draw(rng_seed, "length", length))
    ]
    return sorted(chosen, key=_id)


def _id(card: Card) -> str:
    return card.id


def _mixed(cards: Sequence[Card], count: int, rng_seed: int) -> list[Card]:
    by = (lambda card: card.kind, lambda card: card.category)
    return stratified(cards, count, by=by, key=_id, rng_seed=rng_seed)


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


def needs_history(card: Card, least: float) -> bool:
    """Whether an unsafe script's risk grows enough over the dialogue; a benign one has none and always passes."""
    if card.kind is ScriptKind.BENIGN or least == 0:
        return True
    return card.risk is not None and card.risk >= least
