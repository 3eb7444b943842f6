"""Stored transcripts under another judge, from a recipe's seats: what `safer-steer rejudge` runs."""

from __future__ import annotations

from pathlib import Path

from safer_steer.actors.judging import judge_print
from safer_steer.actors.specs import Seating
from safer_steer.bench.books import done_keys
from safer_steer.bench.evaluate import Session, Summary
from safer_steer.bench.rejudge import Transcripts
from safer_steer.bench.rejudge import rejudge as judge_transcripts
from safer_steer.config import Recipe
from safer_steer.errors import ConfigError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.store import fingerprint


async def rejudge(recipe: Recipe, seats: Seating, source: Path, out: RunFolder, report: Reporter) -> Summary:
    """Judge the transcripts of the evaluation in `source` by the recipe's judge, into `out`; resumes."""
    transcripts = Transcripts(source)
    if out.root.resolve() == source.resolve():
        raise ConfigError("is the folder the transcripts are read from", where=out.root, hint="choose another --out")
    judge = seats.judge()
    done = done_keys(out.root)
    if not all(rollout.key in done for rollout in transcripts):  # reads no further than the first that is not
        await seats.check()
    room = seats.room(recipe.seats.judge)
    open_dialogues = recipe.open_dialogues if room is None else room
    with out.locked():
        digest, who = transcripts.digest(), (judge_print(recipe.seats.judge), judge.stamp.model_dump())
        parts = {"set of transcripts": fingerprint(digest), "judge": fingerprint(who)}
        out.claim("", fingerprint("rejudge", digest, *who), parts)
        transcripts.lend_images(out.images)
        seats.memory.open_ledger(out.root / "calls.jsonl")
        session = Session(open_dialogues, report, seats.spent)
        summary = await judge_transcripts(transcripts, judge, out.root, session)
        from safer_steer.report import write_eval_report

        write_eval_report(out.root, out.images)
    if told := seats.retries_told():
        report.note(told)
    return summary
