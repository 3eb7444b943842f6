"""Stage II's data: red rewrites, blue answers, every turn is scored; what passes both thresholds teaches the student.

In the run folder, under `bootstrap/`: the journals `rollouts.jsonl` and `calls.jsonl`; then `kept.jsonl` (STEER-SFT),
`dropped.jsonl` (what was played and left out, with the reason), `rl.jsonl` (scripts for GRPO, STEER-RL), `val.jsonl`
(scripts to watch), `bench.jsonl` (the held-out ones, STEER-Bench), `contamination.json` and `usage.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safer_steer.actors.ledger import Ledger
from safer_steer.actors.spec import seats_print
from safer_steer.actors.spending import prices_of
from safer_steer.bootstrap.keeping import sift
from safer_steer.bootstrap.pools import Pools, divide
from safer_steer.bootstrap.shelf import Shelf
from safer_steer.config import Recipe
from safer_steer.construct import estimate
from safer_steer.construct.dedup import Contamination, Looks, contamination, item_of
from safer_steer.construct.outage import interrupted, refuse_interrupted, rollout_key
from safer_steer.construct.shingles import Shingler
from safer_steer.construct.splits import Card, select
from safer_steer.construct.stage import check, scripts_of
from safer_steer.construct.summary import spread, tally
from safer_steer.dialogue import Rollout, Script, Split
from safer_steer.progress import Reporter
from safer_steer.prompts import load_prompt
from safer_steer.run_folder import RunFolder
from safer_steer.runner import Job, play
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.single_turn import single_turns
from safer_steer.store import Journal, fingerprint, write_json, write_records

STAGE = "bootstrap"
SIFT = f"{STAGE}/sift"
PROMPTS = ("red_rewrite", "blue_guidelines")


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

    With other thresholds or sizes of splits the dialogues that were played are sifted again and nobody is asked.
    Raises `StorageError`, `BudgetSpent`, `Incomplete`, and `StageError` when no dialogue passes.
    """
    check(recipe)
    estimate.check_budget(recipe, STAGE)
    with Shelf(scripts, run.root) as shelf:
        people = (type(red).__name__, blue.name, reward_judge.stamp.model_dump())
        run.claim(STAGE, _played_with(recipe, shelf.digest, people))
        done, sifted, sifting = run.finished(STAGE), run.finished(SIFT), _sifted_with(recipe)
        if done is not None and sifted == sifting:
            return done
        run.reopen(STAGE)
        pools = divide(recipe, shelf)
        undone = await _play(run.stage(STAGE), recipe, shelf, pools.sft, Cast(red, blue, reward_judge), report)
        result = {**sift(run.stage(STAGE), recipe), "undone": undone, **_deal(recipe, run, shelf, pools)}
    run.finish(SIFT, sifting)
    run.finish(STAGE, result)
    return result


def _deal(recipe: Recipe, run: RunFolder, shelf: Shelf, pools: Pools) -> dict[str, Any]:
    """Write what is not played, and what crosses the splits; returns the counts."""
    folder = run.stage(STAGE)
    val = [card for card in shelf.cards if card.split is Split.VAL]
    held_out = [card for card in shelf.cards if card.split is Split.TEST]
    bench = select(held_out, recipe.bootstrap.bench, recipe.seed)
    for name, cards in (("rl", pools.rl), ("val", val), ("bench", bench)):
        write_records(folder / f"{name}.jsonl", shelf.scripts(cards))
    crossing = _cross(recipe, run, shelf, {"sft": pools.sft, "rl": pools.rl, "val": val, "bench": bench})
    write_json(folder / "contamination.json", crossing.model_dump(mode="json"))
    return {**_counts(pools, val, bench), "contamination": len(crossing.overlaps) + len(crossing.seeds)}


async def _play(folder: Path, recipe: Recipe, shelf: Shelf, cards: Sequence[Card], cast: Cast, report: Reporter) -> int:
    """Play what is not played yet; returns how much got no answer. Raises `Incomplete` (too much) and `BudgetSpent`."""
    path = folder / "rollouts.jsonl"
    with Journal(path, Rollout, rollout_key, drop=interrupted) as journal:
        ledger = Ledger(folder / "calls.jsonl", recipe.budget, prices_of(recipe), journal.__contains__)
        todo = [card for card in cards if f"{card.id}#0" not in journal]

        def finished(rollout: Rollout) -> None:
            if not interrupted(rollout):
                ledger.close_item(rollout.key)
            report.advance()

        async with ledger:
            with report.stage("bootstrap: play", len(todo)):
                await play(
                    map(Job, shelf.scripts(todo)),
                    cast,
                    journal,
                    open_dialogues=estimate.width(recipe, STAGE),
                    on_finish=finished,
                    within=ledger.item,
                )
        undone = refuse_interrupted(STAGE, journal, recipe.max_undone_share)
    ledger.finish()
    return undone


def _cross(recipe: Recipe, run: RunFolder, shelf: Shelf, pools: dict[str, Sequence[Card]]) -> Contamination:
    """What of the training data stands in validation or the benchmark too."""
    most = recipe.construction.image_distance
    looks = None if most is None else Looks(run.images, most)
    shingler, home = Shingler(), {}
    items = []
    for name, cards in pools.items():
        for script in shelf.scripts(cards):
            home[script.id] = name
            for ref in script.images_until(len(script.turns)) if looks is not None else ():
                assert looks is not None
                looks.see(ref)
            items.append(item_of(script, shingler))
    threshold = recipe.construction.near_duplicate_jaccard
    return contamination(items, threshold, looks, image_bits=most, name=lambda item: home[item.id])


def scripts_for(recipe: Recipe, run: RunFolder) -> Iterator[Script]:
    """What Stage II plays and divides: Stage I's scripts, or (`single_turn`) their open questions alone."""
    found = scripts_of(run)
    return single_turns(found) if recipe.single_turn else found


def forecast(recipe: Recipe, scripts: Iterable[Script]) -> dict[str, Any]:
    """How many scripts `bootstrap` would play and keep for RL, and what it would ask; nothing is asked or written."""
    told = estimate.Estimate()
    with Shelf(scripts) as shelf:
        pools = divide(recipe, shelf)
        for script in shelf.scripts(pools.sft):
            count, answer = len(script.turns), estimate.WRITTEN["answer"]
            estimate.play(told, count, script.images, answer, assistant="blue", judge="reward_judge", user="red")
    spending = told.tell(recipe)
    return {
        "sft": len(pools.sft),
        "rl": len(pools.rl),
        "calls": {seat: entry["calls"] for seat, entry in spending["seats"].items()},
        "spending": spending,
    }


def _counts(pools: Pools, val: Sequence[Card], bench: Sequence[Card]) -> dict[str, Any]:
    return {
        "rl": len(pools.rl),
        "rl_kinds": tally(card.kind for card in pools.rl),
        "rl_turns": spread([card.length for card in pools.rl]),
        "rl_repeats_of_sft": len(pools.repeats),
        "rl_without_history_risk": len(pools.plain),
        "rl_not_chosen": len(pools.spare),
        "val": len(val),
        "bench": len(bench),
        "bench_turns": spread([card.length for card in bench]),
    }


def _played_with(recipe: Recipe, scripts: str, people: object) -> str:
    """What the played dialogues hang on. With anything else they would be others: the folder is refused."""
    settings = (recipe.seed, recipe.bootstrap.sft_share, recipe.answer_format)
    seated = seats_print(recipe.seats, estimate.STAGE_SEATS[STAGE])
    written = {name: load_prompt(name).digest for name in PROMPTS}
    return fingerprint(STAGE, settings, scripts, people, seated, written)


def _sifted_with(recipe: Recipe) -> dict[str, Any]:
    """What is kept of them hangs on this besides. It may change: the same dialogues are sifted again."""
    return {
        "bootstrap": recipe.bootstrap.model_dump(mode="json", exclude={"sft_share"}),
        "near_duplicate_jaccard": recipe.construction.near_duplicate_jaccard,
        "image_distance": recipe.construction.image_distance,
    }
