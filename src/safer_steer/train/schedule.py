"""Which scripts a GRPO step plays, and how they are shortened: pure functions of the recipe's seed and the step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from safer_steer.dialogue import ImageRef, Script, UserTurn, stable_id


def scripts_of_step(scripts: Sequence[Script], step: int, count: int, benign_share: float, seed: int) -> list[Script]:
    """The `count` scripts of step `step` (from 1), benign ones mixed in at `benign_share` over the steps.

    Either kind is used up before one of it comes again, every epoch in its own seeded order. Where one kind is
    missing, the other fills in. Raises ValueError for no scripts at all.
    """
    ordered = sorted(scripts, key=lambda script: script.id)
    unsafe = [script for script in ordered if script.is_unsafe]
    benign = [script for script in ordered if not script.is_unsafe]
    if not ordered:
        raise ValueError("there are no scripts to play")
    share = benign_share if unsafe and benign else float(not unsafe)
    before, after = (int(share * count * n + 1e-9) for n in (step - 1, step))
    done = (step - 1) * count
    return [
        *_draw(unsafe, done - before, count - (after - before), f"unsafe-{seed}"),
        *_draw(benign, before, after - before, f"benign-{seed}"),
    ]


def _draw(pool: Sequence[Script], start: int, count: int, label: str) -> list[Script]:
    """Places `start` to `start + count` of an endless deal of the pool, shuffled anew for every epoch."""
    orders: dict[int, list[int]] = {}
    found = []
    for place in range(start, start + count):
        epoch = place // len(pool)
        if epoch not in orders:
            orders[epoch] = list(range(len(pool)))
            random.Random(stable_id("grpo", label, epoch)).shuffle(orders[epoch])
        found.append(pool[orders[epoch][place % len(pool)]])
    return found


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
