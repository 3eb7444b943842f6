"""A run's splits as plain messages: what every format is written from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from safer_steer.dialogue import ImageRef, Rollout, Script
from safer_steer.errors import StorageError
from safer_steer.prompts import neutralise
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.verdict import Scored

IMAGE = "<image>"
"""The place of an image in formats that mark it in the text. In what people say it is neutralised."""


class Part(StrEnum):
    """The splits that are exported: dialogues to learn from, and scripts to play."""

    SFT = "sft"
    RL = "rl"
    VAL = "val"
    BENCH = "bench"


FILES = {Part.SFT: "kept.jsonl", Part.RL: "rl.jsonl", Part.VAL: "val.jsonl", Part.BENCH: "bench.jsonl"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One dialogue (`answers` as many as `asks`, each as the student should write it) or script (no `answers`)."""

    script: Script
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    safety: tuple[float, ...] = ()

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every image that is shown, in order."""
        return self.script.images_until(len(self.asks))

    @property
    def first_images(self) -> tuple[ImageRef, ...]:
        """The images that come with the first turn: of most dialogues all."""
        return self.script.images_at(1)

    def messages(self) -> list[dict[str, str]]:
        """User and assistant messages in turn; of a script the user's alone."""
        said = [{"role": "user", "content": text} for text in self.asks]
        if not self.answers:
            return said
        answers = [{"role": "assistant", "content": text} for text in self.answers]
        return [message for pair in zip(said, answers, strict=True) for message in pair]

    def marked(self) -> list[dict[str, str]]:
        """`messages` with one `<image>` for each image, before the text of the turn it comes with."""
        said = [{**message, "content": neutralise(message["content"])} for message in self.messages()]
        turns = (message for message in said if message["role"] == "user")
        for number, message in enumerate(turns, 1):
            message["content"] = IMAGE * len(self.script.images_at(number)) + message["content"]
        return said


def present(run: RunFolder) -> list[Part]:
    """The splits that a run has; raises `StorageError` when it has none."""
    folder = run.root / "bootstrap"
    found = [part for part, name in FILES.items() if _holds_something(folder / name)]
    if not found:
        hint = "run `safer-steer bootstrap` there first"
        raise StorageError("there are no finished splits here", where=folder, hint=hint)
    return found


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def read(run: RunFolder, part: Part) -> Iterator[Sample]:
    """The samples of a split, sorted as they lie there; raises `StorageError`."""
    path = run.root / "bootstrap" / FILES[part]
    if part is Part.SFT:
        yield from (_dialogue(rollout) for rollout in read_records(path, Rollout))
    else:
        for script in read_records(path, Script):
            yield Sample(script, tuple(turn.text for turn in script.turns), ())


def _dialogue(rollout: Rollout) -> Sample:
    scores = [turn.verdict.scores for turn in rollout.turns if isinstance(turn.verdict, Scored)]
    return Sample(
        rollout.script,
        tuple(turn.user for turn in rollout.turns),
        tuple(turn.answer.raw for turn in rollout.turns),
        tuple(score["safety"] for score in scores),
    )
