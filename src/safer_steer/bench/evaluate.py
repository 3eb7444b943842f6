"""Evaluation: play a suite against a model, judge every turn, and write what came of it.

The folder of one evaluation holds `rollouts.jsonl` (the transcripts with their verdicts), `faults.jsonl` (dialogues
that broke off; played again when the command is run again), `summary.json`, `turns.parquet` and `report.html`; where a
panel judged also `disagreements.jsonl`, the turns to read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safer_steer.bench.agreement import Agreement, agreement
from safer_steer.bench.disagreements import write_disagreements
from safer_steer.bench.intervals import Rate
from safer_steer.bench.metrics import Group, by_attack, group, grouped, unscored_reasons
from safer_steer.bench.spent import Spent, spent
from safer_steer.bench.survival import RestrictedMean, SurvivalPoint, observations, restricted_mean, survival_curve
from safer_steer.bench.tally import Tally
from safer_steer.bench.turns import write_turns
from safer_steer.config import EvalConfig
from safer_steer.converse import converse
from safer_steer.dialogue import Record, Rollout, Script
from safer_steer.errors import StageError
from safer_steer.formats import Skips
from safer_steer.progress import Reporter
from safer_steer.runner import bounded
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.store import Journal, read_records, write_json
from safer_steer.verdict import Stamp

NO_SKIPS = Skips()
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
    by_suite: dict[str, Group]
    by_attack: dict[str, Rate]
    """Share of the unsafe dialogues' turns that held, per attack the tutor chose (adaptive users only)."""
    unscored_reasons: dict[str, int]
    endings: dict[str, int]
    survival: tuple[SurvivalPoint, ...]
    restricted_mean: RestrictedMean | None
    spent: Spent
    seconds: float
    """Of the last session: a resumed evaluation counts only what it did after it went on."""
    skipped_rows: Skips = NO_SKIPS
    """Rows of the suite that were wrong and, as asked for, left out: no dialogue of theirs is counted above."""
    agreement: Agreement | None = None
    """How far the judges of a panel agree; `None` where one judge judged."""

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
    skips: Skips = NO_SKIPS
    """The suite's rows that were left out because they were wrong."""


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
        tally = Tally(config.safety_pass)
        with report.stage(title, len(todo)):
            finished = 0
            async for _, rollout in bounded(todo, lambda script: converse(script, cast), open_dialogues):
                if rollout.fault is None:
                    done.append(rollout)
                    finished += 1
                else:
                    faults.append(Fault(attempt=attempt, rollout=rollout))
                    _give_up(rollout, finished, len(faults.keys), attempt, evaluation)
                report.advance(1, **tally.add(rollout))
    rollouts = list(outcomes(folder))
    summary = summarise(rollouts, evaluation, config, time.monotonic() - began)
    write_json(folder / "summary.json", summary.contract())
    of = summary.of
    write_disagreements(folder, rollouts)
    write_turns(folder / "turns.parquet", rollouts, model=of.model, protocol=of.protocol, suite=of.suite)
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
        by_suite=grouped(rollouts, lambda r: of.suite if r.script.suite is None else r.script.suite, **limits),
        by_attack=by_attack(unsafe),
        unscored_reasons=unscored_reasons(rollouts),
        endings={str(stop): sum(rollout.stop is stop for rollout in rollouts) for stop in endings},
        survival=tuple(survival_curve(unsafe)),
        restricted_mean=restricted_mean(observations(unsafe)),
        spent=spent(rollouts),
        agreement=agreement(rollouts),
        seconds=seconds,
        skipped_rows=of.skips,
    )


def unscored_share(summary: Summary) -> float:
    """The share of turns without a score, a dialogue that broke off counting for at least one."""
    figures = summary.overall.counts
    missing = figures.unscored + figures.failed
    return missing / max(1, figures.scored + missing)
