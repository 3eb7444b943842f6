"""Stage II's data: red rewrites, blue answers, every turn is scored; what passes both thresholds teaches the student.

In the run folder, under `bootstrap/`: the journals `rollouts.jsonl` and `calls.jsonl`; then `kept.jsonl` (STEER-SFT),
`dropped.jsonl` (what was played and left out, with the reason), `rl.jsonl` (scripts for GRPO, STEER-RL), `val.jsonl`
(scripts to watch), `bench.jsonl` (the held-out ones, STEER-Bench), `contamination.json` and `usage.json`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safer_steer.actors.ledger import Ledger
from safer_steer.actors.spending import prices_of
from safer_steer.bootstrap.keeping import sift
from safer_steer.bootstrap.pools import Pools, divide
from safer_steer.config import Recipe
from safer_steer.construct import estimate
from safer_steer.construct.dedup import Contamination, Looks, contamination, item_of
from safer_steer.construct.outage import interrupted, refuse_interrupted, rollout_key
from safer_steer.construct.shingles import Shingler
from safer_steer.construct.splits import select
from safer_steer.construct.stage import check
from safer_steer.construct.summary import tally, turns
from safer_steer.dialogue import Rollout, Script, Split
from safer_steer.progress import Reporter
from safer_steer.runner import Job, play
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.store import Journal, RunFolder, fingerprint, write_json, write_records

STAGE = "bootstrap"


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

    Raises `StorageError`, `BudgetSpent`, and `StageError` when no dialogue passes.
    """
    check(recipe)
    estimate.check_budget(recipe, STAGE)
    everything = sorted(scripts, key=lambda script: script.id)
    run.claim(STAGE, _inputs(recipe, everything, (type(red).__name__, blue.name, reward_judge.stamp.model_dump())))
    done = run.finished(STAGE)
    if done is not None:
        return done
    pools = divide(recipe, everything)
    folder = run.stage(STAGE)
    await _play(folder, recipe, [Job(script) for script in pools.sft], Cast(red, blue, reward_judge), report)
    val = [script for script in everything if script.split is Split.VAL]
    held_out = [script for script in everything if script.split is Split.TEST]
    bench = select(held_out, recipe.bootstrap.bench, recipe.seed, lambda script: script)
    result = {**sift(folder, recipe), **_counts(pools, val, bench)}
    write_records(folder / "rl.jsonl", pools.rl)
    write_records(folder / "val.jsonl", val)
    write_records(folder / "bench.jsonl", bench)
    report_ = _cross(recipe, run, {"sft": pools.sft, "rl": pools.rl, "val": val, "bench": bench})
    write_json(folder / "contamination.json", report_.model_dump(mode="json"))
    run.finish(STAGE, {**result, "contamination": len(report_.overlaps) + len(report_.seeds)})
    return {**result, "contamination": len(report_.overlaps) + len(report_.seeds)}


async def _play(folder: Path, recipe: Recipe, jobs: Sequence[Job], cast: Cast, report: Reporter) -> None:
    """Play what is not played yet; raises `StageError` when most of it got no answer, and `BudgetSpent`."""
    path = folder / "rollouts.jsonl"
    with Journal(path, Rollout, rollout_key, drop=interrupted) as journal:
        ledger = Ledger(folder / "calls.jsonl", recipe.budget, prices_of(recipe), journal.__contains__)
        todo = [job for job in jobs if job.key not in journal]

        def finished(rollout: Rollout) -> None:
            if not interrupted(rollout):
                ledger.close_item(rollout.key)
            report.advance()

        async with ledger:
            with report.stage("bootstrap: play", len(todo)):
                await play(
                    todo,
                    cast,
                    journal,
                    open_dialogues=estimate.width(recipe, STAGE),
                    on_finish=finished,
                    within=ledger.item,
                )
        refuse_interrupted(STAGE, journal)
    ledger.finish()


def _cross(recipe: Recipe, run: RunFolder, pools: dict[str, Sequence[Script]]) -> Contamination:
    """What of the training data stands in validation or the benchmark too."""
    most = recipe.construction.image_distance
    looks = None if most is None else Looks(run.images, most)
    shingler, home = Shingler(), {}
    items = []
    for name, scripts in pools.items():
        for script in scripts:
            home[script.id] = name
            for ref in script.images_until(len(script.turns)) if looks is not None else ():
                assert looks is not None
                looks.see(ref)
            items.append(item_of(script, shingler))
    threshold = recipe.construction.near_duplicate_jaccard
    return contamination(items, threshold, looks, image_bits=most, name=lambda item: home[item.id])


def forecast(recipe: Recipe, scripts: Iterable[Script]) -> dict[str, Any]:
    """How many scripts `bootstrap` would play and keep for RL, and what it would ask; nothing is asked or written."""
    pools = divide(recipe, list(scripts))
    told = estimate.Estimate()
    for script in pools.sft:
        count, answer = len(script.turns), estimate.WRITTEN["answer"]
        estimate.play(told, count, script.images, answer, assistant="blue", judge="reward_judge", user="red")
    spending = told.tell(recipe)
    return {
        "sft": len(pools.sft),
        "rl": len(pools.rl),
        "calls": {seat: entry["calls"] for seat, entry in spending["seats"].items()},
        "spending": spending,
    }


def _counts(pools: Pools, val: Sequence[Script], bench: Sequence[Script]) -> dict[str, Any]:
    return {
        "rl": len(pools.rl),
        "rl_kinds": tally(script.kind for script in pools.rl),
        "rl_turns": turns(pools.rl),
        "rl_repeats_of_sft": len(pools.repeats),
        "rl_without_history_risk": len(pools.plain),
        "rl_not_chosen": len(pools.spare),
        "val": len(val),
        "bench": len(bench),
        "bench_turns": turns(bench),
    }


def _inputs(recipe: Recipe, scripts: Sequence[Script], people: object) -> str:
    config = recipe.construction
    settings = (
        recipe.seed,
        recipe.bootstrap.model_dump(mode="json"),
        config.near_duplicate_jaccard,
        config.image_distance,
    )
    return fingerprint(STAGE, settings, [script.to_json() for script in scripts], people)
