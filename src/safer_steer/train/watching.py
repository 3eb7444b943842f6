"""Watching a long run: what the tutor takes and costs, and what an independent judge says of held-out dialogues."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from safer_steer.actors.chat import metering
from safer_steer.actors.spending import known_cost, told
from safer_steer.converse import converse
from safer_steer.dialogue import History, Record, Rollout, Script, Usage, stable_id
from safer_steer.limits import Price
from safer_steer.runner import Job, bounded
from safer_steer.seats import Assistant, Cast, Judge, ScriptUser
from safer_steer.verdict import Scored, Verdict


class Bill(Record):
    """What a step's tutor calls took: mean seconds a verdict (waiting for the server included), tokens, and their price
    where the recipe names one. `uncounted` calls came without token counts: neither tokens nor price have them in."""

    verdicts: int
    seconds: float | None
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None


class MeteredJudge:
    """A judge that keeps count of its time and tokens until somebody asks for the `bill`."""

    def __init__(self, judge: Judge, price: Price | None = None) -> None:
        self.stamp = judge.stamp
        self._judge, self._price = judge, price
        self._seconds: list[float] = []
        self._usage: list[Usage] = []

    async def assess(self, history: History, answer: str) -> Verdict:
        began = time.monotonic()
        with metering() as used:
            try:
                return await self._judge.assess(history, answer)
            finally:
                self._seconds.append(time.monotonic() - began)
                self._usage += used

    def bill(self) -> Bill:
        """What was spent since the last bill."""
        spent = told(self._usage)
        bill = Bill(
            verdicts=len(self._seconds),
            seconds=fmean(self._seconds) if self._seconds else None,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            uncounted=spent.untold,
            cost=known_cost(self._price, spent),
        )
        self._seconds, self._usage = [], []
        return bill


class Probe(Record):
    """What the evaluation judge says of the student on held-out scripts: means over scored turns, `None` for none."""

    safety: float | None
    helpfulness: float | None
    scored: int
    unscored: int


def hold_out(
    scripts: Sequence[Script], count: int, benign_share: float, seed: int
) -> tuple[list[Script], list[Script]]:
    """(the rest, `count` scripts for the probe): whole seeds leave training, so that no question is in both.

    At most half of either kind leaves training, the other scripts of a held seed counted in: seeds that are too
    large for that stay, so there may be fewer than `count`, or none. Which ones follows from `seed`.
    """
    order = sorted(scripts, key=lambda script: stable_id("probe", seed, script.seed_id, script.id))
    families: dict[str, list[Script]] = {}
    for script in order:
        families.setdefault(script.seed_id, []).append(script)
    sizes = Counter(script.is_unsafe for script in scripts)
    room = Counter({kind: size // 2 for kind, size in sizes.items()})
    benign = round(count * benign_share)
    held: list[Script] = []
    seeds: set[str] = set()
    for unsafe, wanted in ((False, benign), (True, count - benign)):
        for seed_id, family in families.items():
            own = [script for script in family if script.is_unsafe is unsafe][:wanted]
            takes = Counter(script.is_unsafe for script in family)
            if not own or (seed_id not in seeds and not takes <= room):
                continue
            if seed_id not in seeds:
                seeds.add(seed_id)
                room -= takes
            held += own
            wanted -= len(own)
    return [script for script in scripts if script.seed_id not in seeds], held


def is_probed(step: int, every: int) -> bool:
    """Whether the probe looks at step `step` (from 1): before the first update, and every so many steps."""
    return step == 1 or step % every == 0


def probed_steps(steps: int, every: int) -> int:
    """How many of `steps` steps are probed.

    >>> probed_steps(10, 5), probed_steps(10, 1), probed_steps(3, 5)
    (3, 10, 1)
    """
    return sum(is_probed(step, every) for step in range(1, steps + 1))


async def probe(scripts: Sequence[Script], assistant: Assistant, judge: Judge, open_dialogues: int) -> Probe:
    """Play the held-out scripts as written and have every turn judged: safety where the goal is unsafe,
    helpfulness where it is not."""
    cast = Cast(ScriptUser(), assistant, judge)

    async def one(job: Job) -> Rollout:
        return await converse(job.script, cast, sample=job.sample)

    found = [rollout async for _, rollout in bounded([Job(script) for script in scripts], one, open_dialogues)]
    safety, helpfulness, unscored = [], [], 0
    for rollout in found:
        for turn in rollout.turns:
            if not isinstance(turn.verdict, Scored):
                unscored += 1
            elif rollout.script.is_unsafe:
                safety.append(turn.verdict.scores["safety"])
            else:
                helpfulness.append(turn.verdict.scores["helpfulness"])
    return Probe(
        safety=fmean(safety) if safety else None,
        helpfulness=fmean(helpfulness) if helpfulness else None,
        scored=len(safety) + len(helpfulness),
        unscored=unscored,
    )
