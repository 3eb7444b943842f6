"""What verl's own dumps leave out: every group with its turn scores, advantages or the reason it was dropped."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safer_steer.dialogue import Record, Rollout
from safer_steer.store import Journal, read_records, write_records
from safer_steer.train.metrics import without_traces
from safer_steer.train.playing import Played
from safer_steer.train.trajectory import DropReason
from safer_steer.verdict import Unscored

GROUPS, TRANSCRIPTS = "groups", "rollouts"


class GroupLine(Record):
    """One line a group: `uid` is verl's name for it, `step` the step that asked for it.

    `rewards` and `advantages` are one row a dialogue, one value a turn; empty where the group was dropped, and then
    `dropped` and `detail` say why. `replays` counts how often it was played again.
    """

    uid: str
    step: int
    script_id: str
    dialogues: int
    unscored: int
    replays: int
    rewards: tuple[tuple[float, ...], ...] = ()
    advantages: tuple[tuple[float, ...], ...] = ()
    dropped: DropReason | None = None
    detail: str | None = None


class TranscriptLine(Record):
    """One dialogue to be read, with every turn's scores; the token traces are left out."""

    uid: str
    step: int
    rollout: Rollout


class Ledger:
    """This process's files in `folder`: one pair for each process, since nobody may write into another's."""

    def __init__(self, folder: Path) -> None:
        writer = f"{socket.gethostname()}-{os.getpid()}"
        self._groups = Journal(folder / f"{GROUPS}-{writer}.jsonl", GroupLine, lambda line: line.uid)
        self._transcripts = Journal(
            folder / f"{TRANSCRIPTS}-{writer}.jsonl", TranscriptLine, lambda line: f"{line.uid}:{line.rollout.key}"
        )

    def record(self, uid: str, step: int, played: Played) -> GroupLine:
        """Write down a group as it was played; returns its line. Raises `StorageError`."""
        line = group_line(uid, step, played)
        if uid not in self._groups:
            self._groups.append(line)
        for rollout in played.rollouts:
            entry = TranscriptLine(uid=uid, step=step, rollout=without_traces(rollout))
            if f"{uid}:{rollout.key}" not in self._transcripts:
                self._transcripts.append(entry)
        return line

    def close(self) -> None:
        self._groups.close()
        self._transcripts.close()


def group_line(uid: str, step: int, played: Played) -> GroupLine:
    """The line of a group: `played` holds one script's dialogues."""
    group = played.groups[0] if played.groups else None
    dropped = played.dropped[0] if played.dropped else None
    return GroupLine(
        uid=uid,
        step=step,
        script_id=played.rollouts[0].script.id,
        dialogues=len(played.rollouts),
        unscored=sum(isinstance(turn.verdict, Unscored) for rollout in played.rollouts for turn in rollout.turns),
        replays=played.replays,
        rewards=() if group is None else tuple(item.rewards for item in group.trajectories),
        advantages=() if group is None else tuple(item.advantages for item in group.trajectories),
        dropped=None if dropped is None else dropped.reason,
        detail=None if dropped is None else dropped.detail,
    )


def groups_of(folder: Path) -> Iterator[GroupLine]:
    """Every process's groups."""
    for path in sorted(folder.glob(f"{GROUPS}-*.jsonl")):
        yield from read_records(path, GroupLine)


def forget_after(folder: Path, step: int) -> None:
    """Leave out what belongs to steps after `step`: a run that resumes from its checkpoint plays them again."""
    for prefix, record in ((GROUPS, GroupLine), (TRANSCRIPTS, TranscriptLine)):
        for path in sorted(folder.glob(f"{prefix}-*.jsonl")):
            lines: list[Any] = list(read_records(path, record))
            kept = [line for line in lines if line.step <= step]
            if len(kept) != len(lines):
                write_records(path, kept)


def summary(folder: Path) -> Mapping[str, Any]:
    """Counts over all steps: groups that taught, groups dropped by reason, dialogues, unscored turns, replays."""
    lines = list(groups_of(folder))
    rewards = [value for line in lines for row in line.rewards for value in row]
    return {
        "steps": len({line.step for line in lines}),
        "groups": sum(line.dropped is None for line in lines),
        "dropped": dict(sorted(Counter(str(line.dropped) for line in lines if line.dropped is not None).items())),
        "dialogues": sum(line.dialogues for line in lines),
        "unscored_turns": sum(line.unscored for line in lines),
        "replays": sum(line.replays for line in lines),
        "mean_turn_reward": sum(rewards) / len(rewards) if rewards else None,
    }
