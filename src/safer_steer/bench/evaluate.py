"""Evaluation: play a suite against a model, judge every turn, and write what came of it.

The folder of one evaluation holds `rollouts.jsonl` (the transcripts with their verdicts), `faults.jsonl` (dialogues
that broke off, played again when the command is run again, and those whose judge was away, judged again then),
`calls.jsonl` (every reply of a server, the moment it came), `summary.json`, `turns.parquet` and `report.html`;
where a panel judged also `disagreements.jsonl`, the turns to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safer_steer.actors.remembering import Spending
from safer_steer.bench.agreement import Agreement, agreement
from safer_steer.bench.books import Books, outcomes, same_images, was_away, without_words
from safer_steer.bench.disagreements import write_disagreements
from safer_steer.bench.intervals import Rate
from safer_steer.bench.lacking import lost_turns
from safer_steer.bench.metrics import Group, by_attack, group, grouped, unscored_reasons
from safer_steer.bench.spent import Spent, spent
from safer_steer.bench.survival import RestrictedMean, SurvivalPoint, observations, restricted_mean, survival_curve
from safer_steer.bench.tally import Tally
from safer_steer.bench.turns import write_turns
from safer_steer.config import EvalConfig
from safer_steer.converse import converse, judge_again
from safer_steer.dialogue import Record, Rollout, Script
from safer_steer.errors import StageError
from safer_steer.formats import Skips
from safer_steer.measured import release_memory, sparing_collector
from safer_steer.progress import Reporter
from safer_steer.runner import bounded
from safer_steer.seats import Assistant, Cast, Judge, UserActor
from safer_steer.store import write_json
from safer_steer.verdict import Stamp, Verdict

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
    lost_turns: int = 0
    """Turns that dialogues which broke off did not come to, at least one for each."""
    seconds: float
    """Of the last session: a resumed evaluation counts only what it did after it went on."""
    skipped_rows: Skips = NO_SKIPS
    """Rows of the suite that were wrong and, as asked for, left out: no dialogue of theirs is counted above."""
    bill: tuple[Spending, ...] = ()
    """Every call to a server that was answered, by role and model, in all sessions: whom you pay, and for what."""
    agreement: Agreement | None = None
    """How far the judges of a panel agree; `None` where one judge judged."""

    def contract(self) -> dict[str, Any]:
        """The summary as written: `counts` and `pass_rates` at the top, for scripts that rely on the names.

        The pass rates are of the unsafe dialogues, all that the paper's suites hold; of a suite without any, of all.
        """
        passed = self.unsafe if self.unsafe.counts.dialogues else self.overall
        head = {
            "counts": self.overall.counts.model_dump(),
            "pass_rates": {"safety": passed.safety_pass.rate, "helpfulness": passed.helpfulness_pass.rate},
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
    from_files: bool = False
    """Whether the scripts' images may have been edited since a dialogue was played."""


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the command: how many dialogues are open at once, who is told, and what it all cost so far."""

    open_dialogues: int
    report: Reporter
    bill: Callable[[], tuple[Spending, ...]] = lambda: ()

    def cost(self) -> dict[str, object]:
        """The cost so far as a figure for the progress line; nothing where no price is known."""
        found: dict[str, float] = {}
        for line in self.bill():
            if line.cost is not None and line.currency is not None:
                found[line.currency] = found.get(line.currency, 0.0) + line.cost
        return {"cost": " + ".join(f"{value:.2f} {name}" for name, value in sorted(found.items()))} if found else {}


async def run_eval(evaluation: Evaluation, config: EvalConfig, session: Session) -> Summary:
    """Play what is not played yet, judge what a judge left out, then summarise everything.

    Raises `StageError` when the model is down, `StorageError` when a dialogue was played with other images.
    """
    began = time.monotonic()
    folder = evaluation.folder
    cast = Cast(evaluation.user, evaluation.model, evaluation.judge)
    look = same_images(evaluation.scripts if evaluation.from_files else (), folder)
    with Books(folder, look) as books, sparing_collector():
        todo = [script for script in evaluation.scripts if f"{script.id}#0" not in books.done]
        todo.sort(key=lambda script: -len(script.turns))  # a long one begun last would be played alone
        tally = Tally(config.safety_pass)
        with session.report.stage(f"eval {folder.name}", len(todo)):
            unjudged = set(books.unjudged_keys())

            def jobs() -> Iterator[Script | Rollout]:
                yield from books.unjudged()
                yield from (script for script in todo if f"{script.id}#0" not in unjudged)

            async def work(job: Script | Rollout) -> Rollout:
                if isinstance(job, Rollout):
                    return await judge_again(job, evaluation.judge, was_away)
                return await converse(job, cast)

            async for _, rollout in bounded(jobs(), work, session.open_dialogues):
                books.enter(rollout)
                _give_up(books, rollout, evaluation)
                session.report.advance(1, **tally.add(rollout), **session.cost())
    return close_books(evaluation, config, time.monotonic() - began, session.bill())


def close_books(evaluation: Evaluation, config: EvalConfig, seconds: float, bill: tuple[Spending, ...]) -> Summary:
    """Count everything in the folder and write `summary.json` and the tables, one transcript in memory at a time."""
    release_memory()  # what the loop freed is wanted again here
    folder, kept = evaluation.folder, []
    verdicts: dict[str, Verdict] = {}

    def told() -> Iterator[Rollout]:
        for rollout in outcomes(folder):
            kept.append(without_words(rollout, verdicts))
            yield rollout

    names = {"model": evaluation.name, "protocol": evaluation.protocol, "suite": evaluation.suite}
    write_turns(folder / "turns.parquet", told(), **names)
    if any(turn.verdict.members for rollout in kept for turn in rollout.turns):
        write_disagreements(folder, outcomes(folder))
    summary = summarise(kept, evaluation, config, seconds).model_copy(update={"bill": bill})
    write_json(folder / "summary.json", summary.contract())
    return summary


def _give_up(books: Books, rollout: Rollout, evaluation: Evaluation) -> None:
    enough = min(FAULTS_BEFORE_GIVING_UP, len(evaluation.scripts))
    if books.finished == 0 and not len(books.done) and books.broken >= enough:
        hint = "nothing was lost; mend the model's endpoint and run the same command again"
        what = f"the first {books.broken} dialogues all broke off: {rollout.fault}"
        raise StageError(what, where=evaluation.folder, hint=hint)


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
        lost_turns=sum(map(lost_turns, rollouts)),
        seconds=seconds,
        skipped_rows=of.skips,
    )


def unscored_share(summary: Summary, but: int = 0) -> float:
    """The share of turns without a score, `but` so many of them set aside.

    Of a dialogue that broke off, all turns it did not come to are missing.
    """
    figures = summary.overall.counts
    missing = figures.unscored + summary.lost_turns
    return (missing - but) / max(1, figures.scored + missing)
