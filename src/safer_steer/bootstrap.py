"""Stage II's data: red rewrites, blue answers, every turn is scored; what passes both thresholds teaches the student.

In the run folder, under `bootstrap/`: the journal `rollouts.jsonl`; then `kept.jsonl` (the SFT dialogues),
`dropped.jsonl` (the others, with the reason), `rl.jsonl` (scripts for GRPO) and `val.jsonl` (scripts to watch).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

from safer_steer.config import BootstrapConfig, Recipe
from safer_steer.construct.dedup import script_text
from safer_steer.construct.outage import forget, interrupted, refuse_interrupted, rollout_key
from safer_steer.construct.plan import stratified
from safer_steer.construct.shingles import near_duplicates
from safer_steer.construct.stage import check
from safer_steer.construct.summary import tally, turns
from safer_steer.dialogue import Record, Rollout, Script, Split, StopReason
from safer_steer.errors import StageError
from safer_steer.progress import Reporter
from safer_steer.runner import Job, play
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.store import Journal, RunFolder, fingerprint, write_records
from safer_steer.verdict import Scored, Unscored

STAGE = "bootstrap"


class DropReason(StrEnum):
    """Why a played dialogue does not teach."""

    FAULT = "fault"
    UNSCORED = "unscored"
    UNSAFE = "unsafe"
    UNHELPFUL = "unhelpful"


class Dropped(Record):
    """A dialogue that was played and left out, and why."""

    rollout: Rollout
    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class Pools:
    """What the training scripts are divided into; `repeats` were taken out of RL as near-duplicates of SFT."""

    sft: tuple[Script, ...]
    rl: tuple[Script, ...]
    repeats: tuple[Script, ...]


def run_bootstrap(
    recipe: Recipe,
    run: RunFolder,
    *,
    scripts: Iterable[Script],
    red: UserActor,
    blue: Assistant,
    reward_judge: Judge,
    report: Reporter,
) -> dict[str, Any]:
    """`bootstrap` in an event loop of its own: for callers that are not in one."""
    return asyncio.run(
        bootstrap(recipe, run, scripts=scripts, red=red, blue=blue, reward_judge=reward_judge, report=report)
    )


async def bootstrap(
    recipe: Recipe,
    run: RunFolder,
    *,
    scripts: Iterable[Script],
    red: UserActor,
    blue: Assistant,
    reward_judge: Judge,
    report: Reporter,
) -> dict[str, Any]:
    """Play the SFT half of the training scripts and keep the good dialogues; returns counts, at once if done.

    Raises `StorageError`, and `StageError` when no dialogue passes.
    """
    check(recipe)
    everything = sorted(scripts, key=lambda script: script.id)
    run.claim(STAGE, _inputs(recipe, everything, (type(red).__name__, blue.name, reward_judge.stamp.model_dump())))
    done = run.finished(STAGE)
    if done is not None:
        return done
    pools = divide(recipe, everything)
    folder = run.stage(STAGE)
    jobs = [Job(script) for script in pools.sft]
    path = folder / "rollouts.jsonl"
    forget(path, Rollout, rollout_key, interrupted)
    with Journal(path, Rollout, rollout_key) as journal:
        todo = [job for job in jobs if job.key not in journal]
        with report.stage("bootstrap: play", len(todo)):
            await play(
                todo,
                Cast(red, blue, reward_judge),
                journal,
                open_dialogues=recipe.open_dialogues,
                on_finish=lambda rollout: report.advance(),
            )
        rollouts = sorted(journal, key=rollout_key)
    refuse_interrupted(STAGE, rollouts)
    results = [(rollout, shortcoming(rollout, recipe.bootstrap)) for rollout in rollouts]
    kept = [rollout for rollout, dropped in results if dropped is None]
    dropped = [dropped for _, dropped in results if dropped is not None]
    val = [script for script in everything if script.split is Split.VAL]
    write_records(folder / "dropped.jsonl", dropped)
    if not kept:
        reasons = ", ".join(f"{reason} {number}" for reason, number in _reasons(dropped).items())
        raise StageError("no dialogue passes the filter", where=STAGE, hint=f"dropped: {reasons or 'none was played'}")
    write_records(folder / "kept.jsonl", kept)
    write_records(folder / "rl.jsonl", pools.rl)
    write_records(folder / "val.jsonl", val)
    result = _counts(kept, dropped, pools, val)
    run.finish(STAGE, result)
    return result


def forecast(recipe: Recipe, scripts: Iterable[Script]) -> dict[str, Any]:
    """How many scripts `bootstrap` would play and keep for RL, and what it would ask; nothing is asked or written."""
    pools = divide(recipe, list(scripts))
    calls = sum(len(script.turns) for script in pools.sft)
    return {
        "sft": len(pools.sft),
        "rl": len(pools.rl),
        "calls": {"red": calls, "blue": calls, "reward_judge": calls},
    }


def shortcoming(rollout: Rollout, config: BootstrapConfig) -> Dropped | None:
    """Why a dialogue does not teach, or `None`: keep iff complete, every turn scored, min safety ≥ τ_safe
    and mean usefulness ≥ τ_help."""

    def drop(reason: DropReason, detail: str) -> Dropped:
        return Dropped(rollout=rollout, reason=reason, detail=detail)

    if rollout.stop is not StopReason.COMPLETED:
        return drop(DropReason.FAULT, f"{rollout.stop}: {rollout.fault}")
    scores = []
    for turn in rollout.turns:
        if isinstance(turn.verdict, Unscored):
            return drop(DropReason.UNSCORED, f"turn {turn.index}: {turn.verdict.reason}: {turn.verdict.detail}")
        scores.append(turn.verdict.scores)
    safety = min(score["safety"] for score in scores)
    if safety < config.tau_safe:
        worst = next(number for number, score in enumerate(scores, 1) if score["safety"] == safety)
        return drop(DropReason.UNSAFE, f"turn {worst}: safety {safety:g} < {config.tau_safe}")
    usefulness = fmean(score["usefulness"] for score in scores)
    if usefulness < config.tau_help:
        return drop(DropReason.UNHELPFUL, f"mean usefulness {usefulness:.2f} < {config.tau_help:g}")
    return None


def divide(recipe: Recipe, scripts: Sequence[Script]) -> Pools:
    """Split the training scripts by seed, stratified by kind and category; the choice depends on the recipe's seed.

    All scripts of one seed stand on one side. RL scripts that nearly repeat an SFT script are taken out.
    """
    by_seed: defaultdict[str, list[Script]] = defaultdict(list)
    for script in sorted(scripts, key=lambda script: script.id):
        if script.split in (Split.TRAIN, None):
            by_seed[script.seed_id].append(script)
    count = round(recipe.bootstrap.sft_share * len(by_seed))
    taught = set(
        stratified(list(by_seed), count, by=[lambda seed: _stratum(by_seed[seed])], key=str, rng_seed=recipe.seed)
    )
    sft = sorted((s for seed in taught for s in by_seed[seed]), key=lambda script: script.id)
    rest = sorted((s for seed in by_seed.keys() - taught for s in by_seed[seed]), key=lambda script: script.id)
    repeats = _repeats(sft, rest, recipe.construction.near_duplicate_jaccard)
    return Pools(
        sft=tuple(sft),
        rl=tuple(script for script in rest if script.id not in repeats),
        repeats=tuple(script for script in rest if script.id in repeats),
    )


def _stratum(scripts: Sequence[Script]) -> tuple[tuple[str, ...], str]:
    """The kinds a seed became and its category."""
    return tuple(sorted({str(script.kind) for script in scripts})), scripts[0].category


def _repeats(sft: Sequence[Script], rest: Sequence[Script], threshold: float) -> set[str]:
    """Ids in `rest` that nearly repeat a script of `sft`. SFT comes first, so a repeat is found on the RL side."""
    both = [*sft, *rest]
    found = near_duplicates(map(script_text, both), threshold)
    return {both[duplicate.item].id for duplicate in found if duplicate.item >= len(sft)}


def _reasons(dropped: Sequence[Dropped]) -> dict[str, int]:
    return tally(item.reason for item in dropped)


def _counts(kept: Sequence[Rollout], dropped: Sequence[Dropped], pools: Pools, val: Sequence[Script]) -> dict[str, Any]:
    taught = [rollout.script for rollout in kept]
    return {
        "played": len(kept) + len(dropped),
        "kept": len(kept),
        "kept_share": len(kept) / (len(kept) + len(dropped)),
        "dropped": _reasons(dropped),
        "kept_kinds": tally(script.kind for script in taught),
        "kept_categories": tally(script.category for script in taught),
        "kept_turns": turns(taught),
        "kept_means": _means(kept),
        "rl": len(pools.rl),
        "rl_kinds": tally(script.kind for script in pools.rl),
        "rl_turns": turns(pools.rl),
        "rl_repeats_of_sft": len(pools.repeats),
        "val": len(val),
    }


def _means(kept: Sequence[Rollout]) -> dict[str, float]:
    """The mean of each score over all kept turns; all of them are scored."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for rollout in kept:
        for turn in rollout.turns:
            assert isinstance(turn.verdict, Scored)
            for name, value in turn.verdict.scores.items():
                scores[name].append(value)
    return {name: fmean(values) for name, values in sorted(scores.items())}


def _inputs(recipe: Recipe, scripts: Sequence[Script], people: object) -> str:
    settings = (recipe.seed, recipe.bootstrap.model_dump(mode="json"), recipe.construction.near_duplicate_jaccard)
    return fingerprint(STAGE, settings, [script.to_json() for script in scripts], people)
