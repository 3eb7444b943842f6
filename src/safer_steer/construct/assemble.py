"""From Stage I's journals to its final files, in an order that does not depend on what finished first.

Texts are read twice and written once, a record at a time: what stays in memory is each script's shingles and place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safer_steer.config import ConstructConfig
from safer_steer.construct.dedup import Item, Looks, Repeat, contamination, item_of, repeats
from safer_steer.construct.records import Failure, Reason, Rejected, Written, rejected
from safer_steer.construct.shingles import Shingler
from safer_steer.construct.success import cut_at_leak, leak_turn, outcome
from safer_steer.construct.summary import Counting
from safer_steer.dialogue import Rollout, Script, ScriptKind, Split
from safer_steer.errors import StageError
from safer_steer.image_store import ImageStore
from safer_steer.store import read_placed, read_records, record_at, write_json, write_records

STAGE = "construct"


def assemble(folder: Path, config: ConstructConfig, images: ImageStore) -> dict[str, Any]:
    """Write `red_team.jsonl`, `obfuscated.jsonl`, `benign.jsonl`, `rejected.jsonl` and `contamination.json`.

    Returns the counts. Raises `StageError` when nothing is left to train on, `StorageError` and `ImageError`.
    """
    outcomes = _outcomes(folder / "attacks.jsonl") if config.success_filter else {}
    path = folder / "generated.jsonl"
    looks = None if config.image_distance is None else Looks(images, config.image_distance)
    items: list[Item] = []
    left_out: list[tuple[str, int, Failure | None]] = []  # key, place, why: `None` is what the order itself says
    shingler = Shingler()
    keys: dict[str, str] = {}
    for at, entry in read_placed(path, Written):
        became = _became(entry, outcomes)
        if isinstance(became, Script):
            items.append(item_of(became, shingler, at))
            keys[became.id] = entry.key
            for ref in became.images_until(len(became.turns)) if looks is not None else ():
                assert looks is not None
                looks.see(ref)
        else:
            left_out.append((entry.key, at, became))
    found = repeats(items, config.near_duplicate_jaccard, looks)
    left_out += [(keys[repeat.item.id], repeat.item.at, _why(repeat)) for repeat in found]
    gone = {repeat.item.id for repeat in found}
    kept = sorted((item for item in items if item.id not in gone), key=lambda item: item.id)
    report = contamination(kept, config.near_duplicate_jaccard, looks, image_bits=config.image_distance)
    if report:  # de-duplication makes it empty; a leak would spoil every number later, so it is looked for all the same
        raise StageError(f"{len(report.seeds)} seeds, {len(report.overlaps)} scripts cross splits", where=STAGE)
    counting = Counting(attacked=len(outcomes))
    with path.open("rb") as file:

        def script_at(item: Item) -> Script:
            became = _became(record_at(file, item.at, Written), outcomes)
            assert isinstance(became, Script)
            return became

        def rejections() -> Iterator[Rejected]:
            for _, at, failure in sorted(left_out, key=lambda entry: entry[0]):
                yield counting.left_out(_rejected(record_at(file, at, Written), failure))

        write_records(folder / "rejected.jsonl", rejections())
        _must_train(kept, counting, folder)
        by_kind = _kinds(path, {item.at for item in kept})
        for kind in ScriptKind:
            chosen = (item for item in kept if by_kind[item.at] is kind)
            write_records(folder / f"{kind}.jsonl", (counting.kept(script_at(item)) for item in chosen))
    write_json(folder / "contamination.json", report.model_dump(mode="json"))
    return counting.result()


def _outcomes(path: Path) -> dict[str, int | Failure]:
    """By script: the turn of the first leak, or why the attack is dropped."""
    found: dict[str, int | Failure] = {}
    for rollout in read_records(path, Rollout):
        became = outcome(rollout)
        if isinstance(became, Failure):
            found[rollout.script.id] = became
        else:
            turn = leak_turn(rollout)
            assert turn is not None
            found[rollout.script.id] = turn
    return found


def _became(entry: Written, outcomes: dict[str, int | Failure]) -> Script | Failure | None:
    """What goes on of an order: its script, cut where the attack succeeded; else why not (`None`: it says itself)."""
    if entry.script is None:
        return None
    played = outcomes.get(entry.script.id)
    if played is None:
        return entry.script
    return played if isinstance(played, Failure) else cut_at_leak(entry.script, played)


def _rejected(entry: Written, failure: Failure | None) -> Rejected:
    why = entry.failure if failure is None else failure
    assert why is not None
    return rejected(entry, why)


def _kinds(path: Path, places: set[int]) -> dict[int, ScriptKind]:
    return {at: entry.kind for at, entry in read_placed(path, Written) if at in places}


def _why(repeat: Repeat) -> Failure:
    if repeat.bits is not None:
        return Failure(reason=Reason.IMAGE_CROSSES_SPLITS, detail=str(repeat))
    return Failure(reason=Reason.CROSSES_SPLITS if repeat.crosses_splits else Reason.NEAR_DUPLICATE, detail=str(repeat))


def _must_train(kept: Sequence[Item], counting: Counting, folder: Path) -> None:
    if any(item.split is Split.TRAIN for item in kept):
        return
    reasons = Counter(counting.reasons).most_common()
    told = ", ".join(f"{reason} {number}" for reason, number in reasons)
    first = next(
        (item.detail for item in read_records(folder / "rejected.jsonl", Rejected) if item.reason == reasons[0][0]),
        None,
    )
    example = "" if first is None else f", such as: {first}"
    hint = f"left out: {told or 'nothing was written'}{example}"
    raise StageError("no script is left to train on", where=STAGE, hint=hint)
