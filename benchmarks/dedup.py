"""How long near-duplicate removal takes: `python benchmarks/dedup.py [texts [free|templates|cluster]]`.

A tenth of the texts are repeats. Memory is the process's peak, with the texts themselves: measure one kind alone.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable

from safer_steer.construct.shingles import near_duplicates

LOT = random.Random(0)
WORDS = [f"w{number}" for number in range(4000)]


def said(count: int) -> str:
    return " ".join(LOT.choices(WORDS, k=count))


def free(count: int) -> list[str]:
    return [said(200) for _ in range(count)]


def templates(count: int) -> list[str]:
    """24 dialogues of six frames each, with a goal of seven words in every frame."""
    frames = [[said(22) for _ in range(6)] for _ in range(24)]
    goals = [said(7) for _ in range(count // 24 + 1)]
    return [" ".join(f"{frame} {goals[number // 24]}" for frame in frames[number % 24]) for number in range(count)]


def one_cluster(count: int) -> list[str]:
    """One text over and over, with three words changed."""
    base = said(200).split()

    def changed() -> str:
        words = list(base)
        for place in LOT.sample(range(200), 3):
            words[place] = LOT.choice(WORDS)
        return " ".join(words)

    return [changed() for _ in range(count)]


def measure(name: str, make: Callable[[int], list[str]], count: int) -> None:
    texts = make(count - count // 11)
    texts += [f"{text} once more" for text in texts[: count // 11]]
    began = time.process_time()
    found = sum(1 for _ in near_duplicates(texts, 0.8))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{name}: {len(texts)} texts, {found} repeats, {time.process_time() - began:.1f} CPU s, peak {peak} MB")


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 15_000
    kinds = {"free": free, "templates": templates, "cluster": one_cluster}
    for label in sys.argv[2:] or kinds:
        measure(label, kinds[label], number)
