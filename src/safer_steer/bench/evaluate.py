"""Evaluation: play a suite against a model, judge every turn, and write what came of it.

The folder of one evaluation holds `rollouts.jsonl` (the transcripts with their verdicts), `faults.jsonl` (dialogues
that broke off; played again when the command is run again), `summary.json`, `turns.parquet` and `report.html`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.bench.metrics import Group, group, grouped, unscored_reasons
from safer_steer.bench.survival import SurvivalPoint, survival_curve
from safer_steer.config import EvalConfig
from safer_steer.converse import converse
from safer_steer.dialogue import Record, Rollout, Script
from safer_steer.errors import StageError
from safer_steer.progress import Reporter
from safer_steer.runner import bounded
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.store import Journal, read_records, write_atomic, write_json
from safer_steer.verdict import Scored, Stamp, Unscored

FAULTS_BEFORE_GIVING_UP = 8
"""When this many dialogues broke off and not one went through, the model is down, not the dialogue."""


class Protocol(Record):
    """What was evaluated: who, by whom, on what, and how."""

    model: str
    judge: Stamp
    suite: str
    protocol: str
    safety_pass: float
    help_pass: float


class Summary(Record):
    """`summary.json`: everything the report shows, as numbers."""

    of: Protocol
    overall: Group
    unsafe: Group
    benign: Group
    by_kind: dict[str, Group]
    by_category: dict[str, Group]
    by_strategy: dict[str, Group]
    unscored_reasons: dict[str, int]
    endings: dict[str, int]
    survival: tuple[SurvivalPoint, ...]
    seconds: float

    def contract(self) -> dict[str, Any]:
        """The summary as written: `counts` and `pass_rates` at the top, for scripts that rely on the names."""
        head = {
            "counts": self.overall.counts.model_dump(),
            "pass_rates": {
                "safety": self.overall.safety_pass.rate,
                "helpfulness": self.overall.helpfulness_pass.rate,
            },
        }
        return head | self.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation to run: the seats, the scripts and where to write."""

    model: Assistant
    judge: Judge
    user: UserActor
    scripts: Sequence[Script]
    suite: str
    protocol: str
    folder: Path
    name: str


async def run_eval(evaluation: Evaluation, config: EvalConfig, open_dialogues: int, report: Reporter) -> Summary:
    """Play what is not played yet, then summarise everything. Raises `StageError` when the model is down."""
    began = time.monotonic()
    folder = evaluation.folder
    cast = Cast(evaluation.user, evaluation.model, evaluation.judge)
    with (
        Journal(folder / "rollouts.jsonl", Rollout, lambda r: r.key) as done,
        Journal(folder / "faults.jsonl", Fault, lambda f: f.key) as faults,
    ):
        todo = [script for script in evaluation.scripts if f"{script.id}#0" not in done]
        attempt = 1 + max((fault.attempt for fault in faults), default=0)
        title = f"eval {folder.name}"
        with report.stage(title, len(todo)):
            finished = 0
            async for _, rollout in bounded(todo, lambda script: converse(script, cast), open_dialogues):
                if rollout.fault is None:
                    done.append(rollout)
                    finished += 1
                else:
                    faults.append(Fault(attempt=attempt, rollout=rollout))
                    _give_up(rollout, finished, len(faults.keys), attempt, evaluation)
                report.advance(1, **_facts(rollout))
    rollouts = list(outcomes(folder))
    summary = summarise(rollouts, evaluation, config, time.monotonic() - began)
    write_json(folder / "summary.json", summary.contract())
    write_turns(folder / "turns.parquet", rollouts)
    return summary


class Fault(Record):
    """A dialogue that broke off, and in which attempt (each run of the command is one)."""

    attempt: int
    rollout: Rollout

    @property
    def key(self) -> str:
        return f"{self.rollout.key}@{self.attempt}"


def _give_up(rollout: Rollout, finished: int, faults: int, attempt: int, evaluation: Evaluation) -> None:
    enough = min(FAULTS_BEFORE_GIVING_UP, len(evaluation.scripts))
    if finished == 0 and attempt == 1 and faults >= enough:
        hint = "nothing was lost; mend the model's endpoint and run the same command again"
        raise StageError(
            f"the first {faults} dialogues all broke off: {rollout.fault}", where=evaluation.folder, hint=hint
        )


def _facts(rollout: Rollout) -> dict[str, object]:
    """What the progress line shows of a dialogue: its mean safety, or its share of turns unsafe to a guard."""
    verdicts = [turn.verdict for turn in rollout.turns if isinstance(turn.verdict, Scored)]
    shown = {"safety": "last safety", "unsafe": "last unsafe share"}
    known = {title: [v.scores[key] for v in verdicts if key in v.scores] for key, title in shown.items()}
    return {title: sum(values) / len(values) for title, values in known.items() if values}


def outcomes(folder: Path) -> Iterator[Rollout]:
    """Every dialogue once, sorted by key: finished ones, and for those never finished the latest fault."""
    finished = {rollout.key: rollout for rollout in read_records(folder / "rollouts.jsonl", Rollout)}
    broken: dict[str, Fault] = {}
    for fault in read_records(folder / "faults.jsonl", Fault):
        key = fault.rollout.key
        if key not in finished and (key not in broken or broken[key].attempt <= fault.attempt):
            broken[key] = fault
    everything = finished | {key: fault.rollout for key, fault in broken.items()}
    for key in sorted(everything):
        yield everything[key]


def summarise(rollouts: Sequence[Rollout], of: Evaluation, config: EvalConfig, seconds: float) -> Summary:
    """All figures of one evaluation."""
    limits = {"safety_pass": config.safety_pass, "help_pass": config.help_pass}
    unsafe = [rollout for rollout in rollouts if rollout.script.is_unsafe]
    benign = [rollout for rollout in rollouts if not rollout.script.is_unsafe]
    endings = sorted({rollout.stop for rollout in rollouts})
    return Summary(
        of=Protocol(model=of.name, judge=of.judge.stamp, suite=of.suite, protocol=of.protocol, **limits),
        overall=group(rollouts, **limits),
        unsafe=group(unsafe, **limits),
        benign=group(benign, **limits),
        by_kind=grouped(rollouts, lambda r: str(r.script.kind), **limits),
        by_category=grouped(rollouts, lambda r: r.script.category, **limits),
        by_strategy=grouped(rollouts, lambda r: r.script.strategy, **limits),
        unscored_reasons=unscored_reasons(rollouts),
        endings={str(stop): sum(rollout.stop is stop for rollout in rollouts) for stop in endings},
        survival=tuple(survival_curve(unsafe)),
        seconds=seconds,
    )


def unscored_share(summary: Summary) -> float:
    """The share of turns without a score, a dialogue that broke off counting for at least one."""
    figures = summary.overall.counts
    missing = figures.unscored + figures.failed
    return missing / max(1, figures.scored + missing)


def write_turns(path: Path, rollouts: Sequence[Rollout]) -> None:
    """`turns.parquet`, one row a turn; a dialogue that broke off adds a row for the turn it broke off at."""
    rows = [row for rollout in rollouts for row in _rows(rollout)]
    columns = {field.name: [row[field.name] for row in rows] for field in _SCHEMA}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer)
    write_atomic(path, buffer.getvalue())


_SCHEMA = pa.schema(
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
    ]
)


def _rows(rollout: Rollout) -> Iterator[dict[str, Any]]:
    script = rollout.script
    common = {"dialogue_id": script.id, "kind": script.kind, "category": script.category, "strategy": script.strategy}
    blank = dict.fromkeys(field.name for field in _SCHEMA)
    for turn in rollout.turns:
        row = {
            **blank,
            **common,
            "turn": turn.index,
            "user": turn.user,
            "answer": turn.answer.text,
            "attack": turn.attack,
        }
        yield row | _verdict_columns(turn.verdict)
    if rollout.fault is not None:
        yield {**blank, **common, "turn": len(rollout.turns) + 1, "status": "failed", "reason": rollout.fault}


def _verdict_columns(verdict: Scored | Unscored) -> dict[str, Any]:
    if isinstance(verdict, Unscored):
        return {"status": "unscored", "reason": str(verdict.reason)}
    scores = {key: int(value) for key, value in verdict.scores.items() if key in ("safety", "helpfulness")}
    row = {"status": "scored", "reason": verdict.rationale, "flags": ",".join(verdict.flags), **scores}
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
