"""Which scripts a GRPO step plays, and how they are shortened: pure functions of the recipe's seed and the step."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence

from safer_steer.dialogue import ImageRef, Script, UserTurn, stable_id


def scripts_of_step(scripts: Sequence[Script], step: int, count: int, benign_share: float, seed: int) -> list[Script]:
    """The `count` scripts of step `step` (from 1), benign ones mixed in at `benign_share` over the steps.

    Either kind is used up before one of it comes again, every epoch in its own seeded order. Where one kind is
    missing, the other fills in. A step has a script twice only if it asks for more of a kind than there are.
    Raises ValueError for no scripts at all.
    """
    ordered = sorted(scripts, key=lambda script: script.id)
    unsafe = [script for script in ordered if script.is_unsafe]
    benign = [script for script in ordered if not script.is_unsafe]
    if not ordered:
        raise ValueError("there are no scripts to play")
    share = benign_share if unsafe and benign else float(not unsafe)

    def benign_after(steps: int) -> int:
        return int(share * count * steps + 1e-9)

    def unsafe_after(steps: int) -> int:
        return steps * count - benign_after(steps)

    return [
        *_deal(unsafe, step, unsafe_after, f"unsafe-{seed}"),
        *_deal(benign, step, benign_after, f"benign-{seed}"),
    ]


def _deal(pool: Sequence[Script], step: int, after: Callable[[int], int], label: str) -> list[Script]:
    """What step `step` has of an endless deal of the pool, shuffled anew for every epoch; `after(n)` are dealt by then.

    Where an epoch begins inside a step, those scripts that the step has already change places with the epoch's last.
    """
    start, stop, size = after(step - 1), after(step), len(pool)
    if start == stop:
        return []
    found: list[int] = []
    order: list[int] = []
    for epoch in range((stop - 1) // size + 1):
        first = epoch * size
        before, order = order, list(range(size))
        random.Random(stable_id("grpo", label, epoch)).shuffle(order)
        begun = bisect_right(range(step), first, key=after)  # the step that deals the epoch's first script
        dealt = first - after(begun - 1)
        if dealt:
            _avoid(order, after(begun) - first, frozenset(before[-dealt:]))
        found += order[max(start - first, 0) : max(stop - first, 0)]
    return [pool[place] for place in found]


def _avoid(order: list[int], count: int, taken: frozenset[int]) -> None:
    """Let the first `count` of `order` have none of `taken`, as far as there are others: they go to the back."""
    others = (place for place in range(len(order) - 1, count - 1, -1) if order[place] not in taken)
    for place in range(min(count, len(order))):
        if order[place] in taken and (other := next(others, None)) is not None:
            order[place], order[other] = order[other], order[place]


def shortened(script: Script, turns: int) -> Script:
    """`script` with at most `turns` turns: its last, where the goal is, and some of those before, in their order.

    Which ones is a matter of the script's id alone. Harmless turns on the way are kept as often as harmful ones, so
    that a student who learns to refuse is also seen to answer. Images of a turn that is left out come with the next
    one that stays.
    """
    if len(script.turns) <= turns:
        return script
    last = len(script.turns) - 1
    kept = {*random.Random(stable_id("shortened", script.id)).sample(range(last), turns - 1), last}
    shown: list[UserTurn] = []
    orphans: tuple[ImageRef, ...] = ()
    for place, turn in enumerate(script.turns):
        orphans = (*orphans, *turn.images)
        if place in kept:
            shown.append(turn.model_copy(update={"images": orphans}))
            orphans = ()
    return script.model_copy(update={"turns": tuple(shown)})
