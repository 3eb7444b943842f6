"""Stored transcripts judged by another judge: nobody else is asked, and the first evaluation stays as it is."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from safer_steer.bench.books import Books, images_of, outcomes, require_evaluation, was_away
from safer_steer.bench.evaluate import Evaluation, Protocol, Session, Summary, close_books
from safer_steer.bench.tally import Tally
from safer_steer.config import EvalConfig
from safer_steer.converse import judge_again
from safer_steer.dialogue import Answer, History, Rollout
from safer_steer.errors import ConfigError, StageError
from safer_steer.formats import Skips
from safer_steer.image_store import ImageStore
from safer_steer.measured import sparing_collector
from safer_steer.runner import bounded
from safer_steer.seats import Judge, ScriptUser
from safer_steer.store import disk_errors


class Transcripts:
    """The folder of an earlier evaluation: its dialogues, what they were, and where their images are.

    Raises `ConfigError` when it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require_evaluation(folder)
        try:
            told = json.loads((folder / "summary.json").read_text())
            self.of = Protocol.from_json(json.dumps(told["of"]))
            self.skips = Skips.from_json(json.dumps(told["skipped_rows"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ConfigError(f"its summary cannot be read: {error}", where=folder) from error
        self.images = images_of(folder)

    def __iter__(self) -> Iterator[Rollout]:
        return outcomes(self.folder)

    def digest(self) -> str:
        """What binds the folder of the new verdicts to these transcripts."""
        found = hashlib.sha256()
        with disk_errors(self.folder):
            for name in ("rollouts.jsonl", "faults.jsonl"):
                path = self.folder / name
                found.update(path.read_bytes() if path.exists() else b"")
        return found.hexdigest()

    def lend_images(self, to: ImageStore) -> None:
        """Put every image the dialogues show where the new report looks for it; raises `ImageError`."""
        for rollout in self:
            for ref in rollout.script.images:
                if not to.path(ref).exists():
                    to.put(self.images.read(ref), name=ref.name)


class NobodyAnswers:
    """The assistant seat of a rejudging: whoever asks it has made a mistake."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def answer(self, history: History) -> Answer:
        raise StageError("a stored transcript is judged without asking its model", where=history.script.id)


async def rejudge(source: Transcripts, judge: Judge, folder: Path, session: Session) -> Summary:
    """Judge every turn of `source` again, into `folder`; resumes. Dialogues that broke off stay so.

    The thresholds are those of the first evaluation.
    """
    began = time.monotonic()
    of = source.of
    config = EvalConfig(safety_pass=of.safety_pass, help_pass=of.help_pass)
    nobody = NobodyAnswers(of.model)
    evaluation = Evaluation(nobody, judge, ScriptUser(), (), of.suite, of.protocol, folder, of.model, source.skips)
    with Books(folder) as books, sparing_collector():
        unjudged = set(books.unjudged_keys())
        todo = (r for r in source if r.key not in books.done and r.key not in unjudged)
        tally = Tally(config.safety_pass)

        def jobs() -> Iterator[tuple[Rollout, bool]]:
            yield from ((rollout, False) for rollout in books.unjudged())
            yield from ((rollout, True) for rollout in todo)

        async def work(job: tuple[Rollout, bool]) -> Rollout:
            rollout, whole = job
            return await judge_again(rollout, judge) if whole else await judge_again(rollout, judge, was_away)

        with session.report.stage(f"rejudge {source.folder.name}", None):
            async for _, rollout in bounded(jobs(), work, session.open_dialogues):
                books.enter(rollout, final=True)
                session.report.advance(1, **tally.add(rollout), **session.cost())
    return close_books(evaluation, config, time.monotonic() - began, session.bill())
