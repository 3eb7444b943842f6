"""Stage I as a stage: probe, write, attack, de-duplicate. Everything finished is journalled; a killed run goes on.

In the run folder, under `construct/`: the journals `probes.jsonl`, `generated.jsonl` and `attacks.jsonl`; then, sorted
by id and the same whatever finished first, `red_team.jsonl`, `obfuscated.jsonl`, `benign.jsonl` and `rejected.jsonl`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safer_steer.actors.generating import Generator, Strategy, load_strategies
from safer_steer.config import Recipe
from safer_steer.construct.dedup import Overlap, contamination, deduplicate
from safer_steer.construct.outage import forget, interrupted, refuse_interrupted, refuse_outage, rollout_key
from safer_steer.construct.plan import Order, choose_seeds, expected, plan
from safer_steer.construct.records import Failure, Probed, Reason, Rejected, Written, rejected, unanswered
from safer_steer.construct.success import leaked, outcome
from safer_steer.construct.summary import counts
from safer_steer.construct.writing import Writer
from safer_steer.dialogue import Rollout, Script, ScriptKind, Seed, SeedKind, Split
from safer_steer.errors import ConfigError, DataError, StageError
from safer_steer.progress import Reporter
from safer_steer.runner import Job, bounded, play
from safer_steer.seats import Assistant, Cast, Judge, ScriptUser
from safer_steer.store import Journal, RunFolder, fingerprint, read_records, write_records

STAGE = "construct"


def run_construct(
    recipe: Recipe,
    run: RunFolder,
    *,
    seeds: Iterable[Seed],
    generator: Generator,
    target: Assistant,
    attack_judge: Judge,
    report: Reporter,
) -> dict[str, Any]:
    """`construct` in an event loop of its own: for callers that are not in one."""
    return asyncio.run(
        construct(
            recipe, run, seeds=seeds, generator=generator, target=target, attack_judge=attack_judge, report=report
        )
    )


async def construct(
    recipe: Recipe,
    run: RunFolder,
    *,
    seeds: Iterable[Seed],
    generator: Generator,
    target: Assistant,
    attack_judge: Judge,
    report: Reporter,
) -> dict[str, Any]:
    """Turn seeds, whose images stand in `run.images`, into scripts; returns the counts, at once if already done.

    Raises `ConfigError` (attacker and target are the same model, an unknown strategy), `DataError` (two seeds with
    one id), `StorageError`, and `StageError` (nothing is left to train on).
    """
    strategies = _strategies(recipe)
    check(recipe)
    everyone = _unique(seeds)
    chosen = choose_seeds(everyone, recipe.construction.max_seeds, recipe.seed)
    people = (generator.name, target.name, attack_judge.stamp.model_dump())
    run.claim(STAGE, _inputs(recipe, everyone, strategies.values(), people))
    done = run.finished(STAGE)
    if done is not None:
        return done
    folder = run.stage(STAGE)
    writer = Writer(recipe.construction, generator, strategies, run.images)
    probes = await _probe(folder, chosen, writer, recipe.open_dialogues, report)
    await _write(folder, list(plan(recipe, chosen, tuple(strategies))), probes, writer, recipe.open_dialogues, report)
    if recipe.construction.success_filter:
        cast = Cast(ScriptUser(), target, attack_judge, stop_when=leaked)
        await _attack(folder, cast, recipe.open_dialogues, report)
    result = {"seeds": len(chosen), "seeds_left_out": len(everyone) - len(chosen), **_assemble(folder, recipe)}
    run.finish(STAGE, result)
    return result


def forecast(recipe: Recipe, seeds: Iterable[Seed]) -> dict[str, Any]:
    """What `construct` would write and, at most, ask (see `plan.expected`); nothing is asked or written."""
    check(recipe)
    chosen = choose_seeds(seeds, recipe.construction.max_seeds, recipe.seed)
    return expected(recipe, chosen, tuple(_strategies(recipe)))


def scripts_of(run: RunFolder) -> list[Script]:
    """All scripts of a finished Stage I, sorted by id; raises `StorageError`."""
    folder = run.stage(STAGE)
    found = (script for kind in ScriptKind for script in read_records(folder / f"{kind}.jsonl", Script))
    return sorted(found, key=lambda script: script.id)


def check(recipe: Recipe) -> None:
    """Refuse what could only be found out late: raises `ConfigError`.

    The model that writes the attacks must not be the one they are tried on.
    """
    if recipe.construction.near_duplicate_jaccard == 0:
        hint = "1 keeps all but exact repeats"
        raise ConfigError("0 would make everything a duplicate", where="construction.near_duplicate_jaccard", hint=hint)
    generator, target = recipe.seats.generator.strip(), recipe.seats.target.strip()
    if generator == target and generator != "scripted":
        hint = "name another model in seats.target: an attacker tried on itself measures nothing"
        raise ConfigError(f"generator and target are both '{generator}'", where="seats", hint=hint)


def _strategies(recipe: Recipe) -> dict[str, Strategy]:
    loaded = load_strategies(recipe.construction.strategies)
    twice = [name for name, number in Counter(strategy.id for strategy in loaded).items() if number > 1]
    if twice:
        raise ConfigError(f"strategy '{twice[0]}' is named twice", where="construction.strategies")
    return {strategy.id: strategy for strategy in loaded}


def _unique(seeds: Iterable[Seed]) -> list[Seed]:
    everyone = list(seeds)
    twice = [name for name, number in Counter(seed.id for seed in everyone).items() if number > 1]
    if twice:
        raise DataError(f"{len(twice)} seed ids occur twice, first '{twice[0]}'", hint="seed ids must be unique")
    return everyone


def _inputs(recipe: Recipe, seeds: Iterable[Seed], strategies: Iterable[Strategy], people: object) -> str:
    """What the stage's output depends on; a folder begun with other inputs is refused."""
    lines = sorted(hashlib.sha256(seed.to_json().encode()).hexdigest() for seed in seeds)
    settings = recipe.construction.model_dump(mode="json", exclude={"seeds"})
    manner = (recipe.seed, recipe.answer_format, recipe.system_prompt)
    return fingerprint(STAGE, manner, settings, [strategy.to_json() for strategy in strategies], lines, people)


async def _probe(
    folder: Path, seeds: Sequence[Seed], writer: Writer, limit: int, report: Reporter
) -> Mapping[str, Probed]:
    """Probe every harmful seed that the journal does not hold yet; returns all probes by seed."""
    path = folder / "probes.jsonl"
    forget(path, Probed, _seed_id, unanswered)
    with Journal(path, Probed, _seed_id) as journal:
        todo = [seed for seed in seeds if seed.kind is SeedKind.HARMFUL and seed.id not in journal]
        with report.stage("construct: probe", len(todo)):
            async for _, entry in bounded(todo, writer.probe, limit):
                journal.append(entry)
                report.advance()
        return {entry.seed_id: entry for entry in journal}


async def _write(
    folder: Path,
    ordered: Sequence[Order],
    probes: Mapping[str, Probed],
    writer: Writer,
    limit: int,
    report: Reporter,
) -> None:
    """Fill every order that the journal does not hold yet."""

    async def fill(order: Order) -> Written:
        return await writer.write(order, probes.get(order.seed.id))

    path = folder / "generated.jsonl"
    forget(path, Written, _key, unanswered)
    with Journal(path, Written, _key) as journal:
        todo = [order for order in ordered if order.key not in journal]
        with report.stage("construct: write", len(todo)):
            async for _, entry in bounded(todo, fill, limit):
                journal.append(entry)
                report.advance()
        undone = [entry.failure.detail for entry in journal if entry.failure is not None and unanswered(entry)]
    refuse_outage(STAGE, "scripts", undone, len(ordered))


def _seed_id(entry: Probed) -> str:
    return entry.seed_id


def _key(entry: Written) -> str:
    return entry.key


def _is_filtered(entry: Written) -> bool:
    return entry.kind is ScriptKind.RED_TEAM and entry.split is Split.TRAIN


async def _attack(folder: Path, cast: Cast, limit: int, report: Reporter) -> None:
    """Play every red-team script that will be trained on against the target, until a leak."""
    written = read_records(folder / "generated.jsonl", Written)
    jobs = [Job(entry.script) for entry in written if entry.script is not None and _is_filtered(entry)]
    successes = 0

    def finished(rollout: Rollout) -> None:
        nonlocal successes
        successes += isinstance(outcome(rollout), Script)
        report.advance(succeeded=successes)

    path = folder / "attacks.jsonl"
    forget(path, Rollout, rollout_key, interrupted)
    with Journal(path, Rollout, rollout_key) as journal:
        todo = [job for job in jobs if job.key not in journal]
        with report.stage("construct: attack", len(todo)):
            await play(todo, cast, journal, open_dialogues=limit, on_finish=finished)
        refuse_interrupted(STAGE, journal)


def _assemble(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """From the journals to the final files, in an order that does not depend on what finished first."""
    outcomes: dict[str, Script | Failure] = {}
    if recipe.construction.success_filter:
        outcomes = {r.script.id: outcome(r) for r in read_records(folder / "attacks.jsonl", Rollout)}
    scripts: list[Script] = []
    left_out: list[Rejected] = []
    written = {}
    for entry in read_records(folder / "generated.jsonl", Written):
        became = entry.failure if entry.script is None else outcomes.get(entry.script.id, entry.script)
        if isinstance(became, Script):
            scripts.append(became)
            written[became.id] = entry
        elif became is not None:
            left_out.append(rejected(entry, became))
    threshold = recipe.construction.near_duplicate_jaccard
    kept, overlaps = deduplicate(scripts, threshold)
    left_out += [rejected(written[overlap.script.id], _repeats(overlap)) for overlap in overlaps]
    _must_be_clean(kept, threshold)
    _must_train(kept, left_out)
    for kind in ScriptKind:
        write_records(folder / f"{kind}.jsonl", (script for script in kept if script.kind is kind))
    left_out.sort(key=lambda item: item.key)
    write_records(folder / "rejected.jsonl", left_out)
    return counts(kept, left_out, attacked=len(outcomes))


def _repeats(overlap: Overlap) -> Failure:
    reason = Reason.CROSSES_SPLITS if overlap.crosses_splits else Reason.NEAR_DUPLICATE
    return Failure(reason=reason, detail=f"Jaccard {overlap.jaccard:.3f} with {overlap.of.id} ({overlap.of.split})")


def _must_be_clean(kept: Sequence[Script], threshold: float) -> None:
    """De-duplication makes this true; it is checked all the same, because a leak would spoil every number later."""
    found = contamination(kept, threshold)
    if found:
        raise StageError(f"{len(found.seeds)} seeds and {len(found.scripts)} scripts cross splits", where=STAGE)


def _must_train(kept: Sequence[Script], left_out: Sequence[Rejected]) -> None:
    if any(script.split is Split.TRAIN for script in kept):
        return
    reasons = Counter(item.reason for item in left_out).most_common()
    told = ", ".join(f"{reason} {number}" for reason, number in reasons)
    example = next((f", such as: {item.detail}" for item in left_out if item.reason is reasons[0][0]), "")
    hint = f"left out: {told or 'nothing was written'}{example}"
    raise StageError("no script is left to train on", where=STAGE, hint=hint)
