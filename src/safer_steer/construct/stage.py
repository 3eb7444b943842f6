"""Stage I as a stage: checks, the stream of work (`stream`), the final files (`assemble`). A killed run goes on.

In the run folder, under `construct/`: the journals `probes.jsonl`, `analyses.jsonl`, `generated.jsonl`, `attacks.jsonl`
and `calls.jsonl`; then, sorted by id and the same whatever finished first, `red_team.jsonl`, `obfuscated.jsonl`,
`benign.jsonl` and `rejected.jsonl`; `contamination.json`, and in `usage.json` what was spent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any

from safer_steer.actors.generating import Generator, Strategy, load_strategies
from safer_steer.actors.spec import SpecKind, parse_spec, seats_print
from safer_steer.actors.spending import prices_of
from safer_steer.config import Recipe
from safer_steer.construct import estimate
from safer_steer.construct.assemble import assemble
from safer_steer.construct.plan import choose_seeds, expected, plan
from safer_steer.construct.stream import Stream
from safer_steer.construct.success import leaked
from safer_steer.construct.writing import Writer
from safer_steer.dialogue import Script, ScriptKind, Seed
from safer_steer.errors import ConfigError, DataError
from safer_steer.progress import Reporter
from safer_steer.prompts import load_prompt
from safer_steer.run_folder import RunFolder
from safer_steer.seats import Assistant, Cast, Judge, ScriptUser
from safer_steer.store import fingerprint, read_records

STAGE = "construct"
PROMPTS = (
    "probe", "expand_benign", "expand_obfuscated", "visual_analysis", "adversarial_rewriting", "dialogue_planning",
)  # fmt: skip


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
    one id), `StorageError`, `BudgetSpent`, `Incomplete`, and `StageError` (nothing is left to train on).
    """
    strategies = _strategies(recipe)
    check(recipe)
    estimate.check_budget(recipe, STAGE)
    everyone = _unique(seeds)
    chosen = choose_seeds(everyone, recipe.construction.max_seeds, recipe.seed)
    people = (generator.name, target.name, attack_judge.stamp.model_dump())
    run.claim(STAGE, _inputs(recipe, everyone, strategies.values(), people))
    done = run.finished(STAGE)
    if done is not None:
        return done
    folder = run.stage(STAGE)
    writer = Writer(recipe.construction, generator, strategies, run.images)
    attacked = recipe.construction.success_filter
    cast = Cast(ScriptUser(), target, attack_judge, stop_when=leaked) if attacked else None
    stream = Stream(folder, writer, cast, recipe.budget, prices_of(recipe), report)
    orders, width = plan(recipe, chosen, tuple(strategies)), estimate.width(recipe, STAGE)
    undone = await stream.work(orders, width, recipe.max_undone_share)
    counted = assemble(folder, recipe.construction, run.images)
    stream.ledger.finish()
    result = {"seeds": len(chosen), "seeds_left_out": len(everyone) - len(chosen), **counted, "undone": undone}
    run.finish(STAGE, result)
    return result


def forecast(recipe: Recipe, seeds: Iterable[Seed]) -> dict[str, Any]:
    """What `construct` would write (`plan.expected`) and, at most, ask and spend (`estimate`); nothing is asked."""
    check(recipe)
    chosen = choose_seeds(seeds, recipe.construction.max_seeds, recipe.seed)
    names = tuple(_strategies(recipe))
    spending = estimate.construction(recipe, chosen, names).tell(recipe)
    calls = {seat: entry["calls"] for seat, entry in spending["seats"].items()}
    seats = ("generator", "target", "attack_judge")
    return {
        **expected(recipe, chosen, names),
        "calls": {seat: calls.get(seat, 0) for seat in seats},
        "spending": spending,
    }


def scripts_of(run: RunFolder) -> Iterator[Script]:
    """All scripts of a finished Stage I, sorted by id, one of each kind in memory at a time; raises `StorageError`."""
    folder = run.stage(STAGE)
    files = (read_records(folder / f"{kind}.jsonl", Script) for kind in ScriptKind)  # each is sorted
    return merge(*files, key=lambda script: script.id)


def check(recipe: Recipe) -> None:
    """Refuse what could only be found out late: raises `ConfigError`.

    The model that writes the attacks must not be the one they are tried on.
    """
    if recipe.construction.near_duplicate_jaccard == 0:
        hint = "1 keeps all but exact repeats"
        raise ConfigError("0 would make everything a duplicate", where="construction.near_duplicate_jaccard", hint=hint)
    generator, target = parse_spec(recipe.seats.generator), parse_spec(recipe.seats.target)
    if generator == target and generator.kind is not SpecKind.SCRIPTED and recipe.construction.success_filter:
        hint = "name another model in seats.target: an attacker tried on itself measures nothing"
        raise ConfigError(f"generator and target are both '{generator}'", where="seats", hint=hint)


def _strategies(recipe: Recipe) -> dict[str, Strategy]:
    loaded = load_strategies(recipe.construction.strategies, recipe.construction.strategy_folder)
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
    settings = recipe.construction.model_dump(mode="json", exclude={"seeds", "strategy_folder"})
    manner = (recipe.seed, recipe.system_prompt)
    written = {name: load_prompt(name).digest for name in PROMPTS}
    told = [strategy.to_json() for strategy in strategies]
    seated = seats_print(recipe.seats, estimate.STAGE_SEATS[STAGE])
    return fingerprint(STAGE, manner, settings, told, lines, people, seated, written)
