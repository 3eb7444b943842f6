"""A finished evaluation counted again under other pass marks: nobody is asked, nothing is judged."""

from __future__ import annotations

from pathlib import Path

from safer_steer.bench.evaluate import Evaluation, Summary, close_books
from safer_steer.bench.rejudge import NobodyAnswers
from safer_steer.config import EvalConfig
from safer_steer.dialogue import History
from safer_steer.errors import StageError
from safer_steer.seats import ScriptUser
from safer_steer.verdict import Stamp, Verdict


class _Judged:
    """The judge whose verdicts stand in the folder: only its stamp is wanted."""

    def __init__(self, stamp: Stamp) -> None:
        self.stamp = stamp

    async def assess(self, history: History, answer: str) -> Verdict:
        raise StageError("a judged evaluation is counted without asking its judge", where=history.script.id)


def remark(folder: Path, known: Summary, safety_pass: float, help_pass: float) -> Summary:
    """Write the figures of the evaluation in `folder`, now `known`, under these pass marks (means of a dialogue).

    Time and bill stay those of the evaluation. Raises `StorageError`.
    """
    of = known.of
    evaluation = Evaluation(
        model=NobodyAnswers(of.model),
        judge=_Judged(of.judge),
        user=ScriptUser(),
        scripts=(),
        suite=of.suite,
        protocol=of.protocol,
        folder=folder,
        name=of.model,
        skips=known.skipped_rows,
    )
    marks = EvalConfig(safety_pass=safety_pass, help_pass=help_pass)
    return close_books(evaluation, marks, known.seconds, known.bill)
