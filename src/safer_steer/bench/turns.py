"""`turns.parquet`: the tidy table of an evaluation, one row a turn, for pandas, DuckDB or a spreadsheet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.dialogue import Rollout, Turn
from safer_steer.store import write_atomic
from safer_steer.verdict import Scored, Unscored

ROWS_AT_ONCE = 4096
"""Rows are written in groups of this size, so that memory does not grow with the number of dialogues."""

SCHEMA = pa.schema(
    [
        ("dialogue_id", pa.string()),
        ("turn", pa.int32()),
        ("user", pa.string()),
        ("answer", pa.string()),
        ("safety", pa.int32()),
        ("helpfulness", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("kind", pa.string()),
        ("category", pa.string()),
        ("strategy", pa.string()),
        ("attack", pa.string()),
        ("flags", pa.string()),
        ("unsafe", pa.bool_()),
        ("unsafe_prob", pa.float64()),
        ("guard_grade", pa.float64()),
        ("refusal", pa.bool_()),
        ("guard_categories", pa.string()),
        ("model", pa.string()),
        ("protocol", pa.string()),
        ("suite", pa.string()),
        ("sample", pa.int32()),
        ("turns_scripted", pa.int32()),
        ("failure", pa.bool_()),
        ("answer_state", pa.string()),
        ("finish", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("judge", pa.string()),
    ]
)
"""`status` is scored, unscored or failed; `reason` the judge's rationale, or why there is no score. `failure` says
whether safety is below 2, or unsafe to a guard; null where neither is known. Tokens and seconds are what the answer
cost: 0 for one that was recalled from another evaluation."""


REPEATED = [
    "status", "kind", "category", "strategy", "attack", "flags", "model", "protocol", "suite", "answer_state",
    "finish", "judge", "guard_categories",
]  # fmt: skip
"""Columns whose texts repeat; a dictionary of the others would only cost time."""


def write_turns(path: Path, rollouts: Iterable[Rollout], *, model: str, protocol: str, suite: str) -> int:
    """Write the table and return its rows; a dialogue that broke off adds a row for the turn it broke off at.

    `suite` stands for dialogues that do not name their own. Raises `StorageError`.
    """
    common = {"model": model, "protocol": protocol, "suite": suite}
    buffer, written = io.BytesIO(), 0
    batch: list[dict[str, Any]] = []
    with pq.ParquetWriter(buffer, SCHEMA, compression="zstd", use_dictionary=REPEATED) as writer:
        for rollout in rollouts:
            batch.extend(_rows(rollout, common))
            if len(batch) >= ROWS_AT_ONCE:
                written += _flush(writer, batch)
        written += _flush(writer, batch)
    write_atomic(path, buffer.getvalue())
    return written


def _flush(writer: Any, batch: list[dict[str, Any]]) -> int:
    count = len(batch)
    if count:
        writer.write_table(pa.table({name: [row.get(name) for row in batch] for name in SCHEMA.names}, schema=SCHEMA))
        batch.clear()
    return count


def _rows(rollout: Rollout, common: dict[str, str]) -> Iterator[dict[str, Any]]:
    script = rollout.script
    shared = {
        **common,
        "dialogue_id": script.id,
        "sample": rollout.sample,
        "kind": str(script.kind),
        "category": script.category,
        "strategy": script.strategy,
        "turns_scripted": len(script.turns),
    }
    if script.suite is not None:
        shared["suite"] = script.suite
    for turn in rollout.turns:
        yield shared | _said(turn) | _verdict(turn.verdict)
    if rollout.fault is not None:
        yield shared | {"turn": len(rollout.turns) + 1, "status": "failed", "reason": rollout.fault}


def _said(turn: Turn) -> dict[str, Any]:
    usage = turn.answer.usage
    return {
        "turn": turn.index,
        "user": turn.user,
        "answer": turn.answer.text,
        "attack": turn.attack,
        "answer_state": str(turn.answer.state),
        "finish": str(turn.answer.finish),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": usage.seconds,
    }


def _verdict(verdict: Scored | Unscored) -> dict[str, Any]:
    judge = None if verdict.stamp is None else verdict.stamp.judge
    if isinstance(verdict, Unscored):
        return {"status": "unscored", "reason": str(verdict.reason), "judge": judge}
    scores = {key: int(value) for key, value in verdict.scores.items() if key in ("safety", "helpfulness")}
    row: dict[str, Any] = {
        "status": "scored",
        "reason": verdict.rationale,
        "judge": judge,
        "failure": verdict.failed,
        **scores,
    }
    row["flags"] = ",".join(verdict.flags)
    if "unsafe" in verdict.scores:
        row["unsafe"] = bool(verdict.scores["unsafe"])
    if verdict.guard is not None:
        row |= {
            "unsafe_prob": verdict.guard.unsafe_prob,
            "guard_grade": verdict.guard.grade,
            "refusal": verdict.guard.refusal,
            "guard_categories": ",".join(verdict.guard.categories),
        }
    return row
