"""How many turns: distributions with a mean that was asked for. Pure.

Of all distributions over some lengths with a given mean the least surprising one multiplies each length's own weight
by `exp(λ·length)`: nothing is favoured but what the mean demands. λ is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

from safer_steer.config import TurnRange

_STEPS = 80  # halvings of λ's interval
_STEEPEST = 60.0


def tilted(weights: Mapping[int, float], mean: float) -> dict[int, float]:
    """`weights` (some positive) by length, tilted to a `mean` between their least and greatest; sums to 1.

    >>> {length: round(share, 3) for length, share in tilted({2: 1, 3: 1, 4: 1}, 3.5).items()}
    {2: 0.116, 3: 0.268, 4: 0.616}
    """
    present = {length: weight for length, weight in sorted(weights.items()) if weight > 0}
    low, high = -_STEEPEST, _STEEPEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if mean_of(_at(present, middle)) < mean:
            low = middle
        else:
            high = middle
    return _at(present, (low + high) / 2)


def _at(weights: Mapping[int, float], slope: float) -> dict[int, float]:
    top = max(slope * length for length in weights)
    raw = {length: weight * math.exp(slope * length - top) for length, weight in weights.items()}
    total = sum(raw.values())
    return {length: value / total for length, value in raw.items()}


def mean_of(shares: Mapping[int, float]) -> float:
    """The mean length of a distribution."""
    return sum(length * share for length, share in shares.items()) / sum(shares.values())


def drawn(lengths: TurnRange, rng_seed: int) -> int:
    """A number of turns, by `rng_seed` alone: uniform in the range, or tilted to its mean."""
    lot = Random(rng_seed)
    if lengths.mean is None:
        return lot.randint(lengths.low, lengths.high)
    shares = tilted(dict.fromkeys(range(lengths.low, lengths.high + 1), 1.0), lengths.mean)
    return lot.choices(list(shares), list(shares.values()))[0]


def quotas(available: Mapping[int, int], count: int, lengths: TurnRange) -> dict[int, int]:
    """How many of each length to take, out of those `available`, for `count` in all of the range and near its mean.

    Without a mean in proportion to what there is. With one, shares are tilted; a length that runs out gives its share
    to the others, which are tilted anew. Fewer than `count` where the mean cannot be had with more: a stated mean is
    kept rather than a stated size.
    """
    inside = {n: number for n, number in sorted(available.items()) if lengths.low <= n <= lengths.high and number > 0}
    count = min(count, sum(inside.values()))
    if not inside or lengths.mean is None:
        return _rounded({n: count * number / sum(inside.values()) for n, number in inside.items()}, inside, count)
    best = _for_mean(inside, count, lengths.mean)
    while best is None and count > 1:
        count -= max(1, count // 200)
        best = _for_mean(inside, count, lengths.mean)
    return {} if best is None else best


def _for_mean(inside: Mapping[int, int], count: int, mean: float) -> dict[int, int] | None:
    """Whole numbers that add up to `count` with `mean`, none above what there is; `None` where there are none."""
    ordered = sorted(inside)
    least, most = _extreme(inside, count, ordered), _extreme(inside, count, ordered[::-1])
    if not least - 0.5 <= mean * count <= most + 0.5:
        return None
    fixed: dict[int, float] = {}
    while True:
        free = {n: float(number) for n, number in inside.items() if n not in fixed}
        left = count - sum(fixed.values())
        if not free or left <= 0:
            break
        wanted = (mean * count - sum(n * number for n, number in fixed.items())) / left
        shares = tilted(free, min(max(wanted, min(free)), max(free)))
        over = [n for n, share in shares.items() if share * left > inside[n]]
        if not over:
            fixed.update({n: share * left for n, share in shares.items()})
            break
        fixed.update({n: float(inside[n]) for n in over})
    return _rounded(fixed, inside, count)


def _extreme(inside: Mapping[int, int], count: int, ordered: list[int]) -> int:
    """The turns of `count` dialogues taken in this order of lengths."""
    total = 0
    for n in ordered:
        taken = min(count, inside[n])
        total, count = total + n * taken, count - taken
    return total


def _rounded(exact: Mapping[int, float], inside: Mapping[int, int], count: int) -> dict[int, int]:
    """Whole numbers near `exact` that add up to `count` and exceed nothing; remainders to the largest."""
    whole = {n: min(inside[n], math.floor(value + 1e-9)) for n, value in exact.items()}
    by_rest = sorted(exact, key=lambda n: (whole[n] - exact[n], n))
    while sum(whole.values()) < count:
        room = [n for n in by_rest if whole[n] < inside[n]]
        if not room:
            break
        for n in room[: count - sum(whole.values())]:
            whole[n] += 1
    return {n: number for n, number in whole.items() if number > 0}
