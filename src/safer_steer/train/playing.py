"""The rollouts of one GRPO step: K dialogues a script side by side, incomplete groups once more, then counted out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from safer_steer.config import GrpoConfig
from safer_steer.converse import converse
from safer_steer.dialogue import Rollout, Script, StopReason
from safer_steer.runner import Job, bounded
from safer_steer.seats import Cast
from safer_steer.train.trajectory import Dropped, DropReason, Group, build_group, shortcoming

REPLAYED = (DropReason.UNSCORED, DropReason.FAULT)
"""What another try may mend; the other reasons would come again."""


@dataclass(frozen=True, slots=True)
class Played:
    """A step's rollouts: everything that was said last, the groups that teach, and why the others do not."""

    rollouts: tuple[Rollout, ...]
    groups: tuple[Group, ...]
    dropped: tuple[Dropped, ...]
    replays: int

    @property
    def drop_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(str(item.reason) for item in self.dropped).items()))

    @property
    def outage(self) -> str | None:
        """What was missing when no dialogue at all was scored to its end, for want of a verdict or an actor; or `None`.

        A dialogue too long for the student's context is no outage: it ends so whoever answers.
        """
        found = [(rollout.stop, shortcoming(rollout)) for rollout in self.rollouts]
        if any(missing is None for _, missing in found):
            return None
        told = (missing.detail for stop, missing in found if missing and stop is not StopReason.CONTEXT_OVERFLOW)
        return next(told, None)


async def play_step(
    scripts: Sequence[Script], cast: Cast, config: GrpoConfig, step: int, open_dialogues: int
) -> Played:
    """Play `config.samples` dialogues of every script and build their groups; a script given twice is played once.

    A group that a silent tutor or a fault spoiled is played again up to `config.retries` times, under new sample
    numbers (they seed the student's sampling). Sample numbers are never used twice over the steps.
    """
    rollouts: dict[str, list[Rollout]] = {}
    results: dict[str, Group | Dropped] = {}
    todo, replays = {script.id: script for script in scripts}, 0
    for attempt in range(config.retries + 1):
        first = ((step - 1) * (config.retries + 1) + attempt) * config.samples
        jobs = [Job(script, first + k) for script in todo.values() for k in range(config.samples)]
        played = await _play(jobs, cast, open_dialogues)
        for name in todo:
            rollouts[name] = [rollout for rollout in played if rollout.script.id == name]
            results[name] = build_group(rollouts[name], config)
        todo = {name: script for name, script in todo.items() if _again(results[name])}
        if not todo:
            break
        replays += len(todo) if attempt < config.retries else 0
    return Played(
        rollouts=tuple(rollout for group in rollouts.values() for rollout in group),
        groups=tuple(result for result in results.values() if isinstance(result, Group)),
        dropped=tuple(result for result in results.values() if isinstance(result, Dropped)),
        replays=replays,
    )


async def _play(jobs: Sequence[Job], cast: Cast, open_dialogues: int) -> list[Rollout]:
    """Every job's rollout, in the order of the jobs."""

    async def one(job: Job) -> Rollout:
        return await converse(job.script, cast, sample=job.sample)

    found = {job.key: rollout async for job, rollout in bounded(jobs, one, open_dialogues)}
    return [found[job.key] for job in jobs]


def _again(result: Group | Dropped) -> bool:
    return isinstance(result, Dropped) and result.reason in REPLAYED
