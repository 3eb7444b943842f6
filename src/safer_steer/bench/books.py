"""What an evaluation wrote down: its journals, its dialogues read back one at a time, and where their images are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import orjson

from safer_steer.dialogue import Record, Rollout, Script, Turn, UserTurn
from safer_steer.errors import ConfigError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.store import Journal, disk_errors, parse_record
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict


def require_evaluation(folder: Path) -> None:
    """Raises `ConfigError` where `folder` holds no evaluation that has come to its end."""
    if (folder / "rollouts.jsonl").exists() and (folder / "summary.json").exists():
        return
    inside = sorted(path.parent for path in folder.glob("eval/*/summary.json"))
    hint = f"name one of {', '.join(map(str, inside))}" if inside else "give a folder that `safer-steer eval` finished"
    raise ConfigError("holds no finished evaluation", where=folder, hint=hint)


def images_of(folder: Path) -> ImageStore:
    """The images of an evaluation: beside it or, where it is one of a run's, at the root of the run."""
    homes = [place / "images" for place in (folder, folder.parent, folder.parent.parent)]
    return ImageStore(next((home for home in homes if home.is_dir()), homes[0]))


def was_away(verdict: Verdict) -> bool:
    """Whether a turn is without a score only because its judge, or one of a panel's, could not be reached."""
    if not isinstance(verdict, Unscored):
        return False
    return verdict.reason is UnscoredReason.JUDGE_UNREACHABLE or any(was_away(member) for member in verdict.members)


def same_images(scripts: Iterable[Script], folder: Path) -> Callable[[Rollout], None]:
    """A look at a dialogue that was played: raises `StorageError` if its script has other images now.

    What was said of a picture must not stand for what would be said of another.
    """
    now = {script.id: _shown(script) for script in scripts}

    def look(rollout: Rollout) -> None:
        script = rollout.script
        if rollout.fault is None and now.get(script.id, _shown(script)) != _shown(script):
            hint = "choose another --out, or put the images back"
            raise StorageError(
                f"'{script.id}' was played with other images than the suite has now", where=folder, hint=hint
            )

    return look


def _shown(script: Script) -> list[str]:
    return [image.sha256 for image in script.images_until(len(script.turns))]


class Books:
    """The two journals of an evaluation: what is done, and what has to be taken up again.

    Everything that stands in them is shown to `look` when they are opened.
    """

    def __init__(self, folder: Path, look: Callable[[Rollout], None] = lambda rollout: None) -> None:
        self.folder = folder
        self.done = Journal(folder / "rollouts.jsonl", Rollout, lambda r: r.key, visit=look)
        try:
            self._faults = Journal(folder / "faults.jsonl", Fault, lambda f: f.key, visit=lambda f: look(f.rollout))
        except BaseException:
            self.done.close()
            raise
        self.attempt = 1 + max((fault.attempt for fault in self._faults), default=0)
        self.finished = self.broken = 0

    def enter(self, rollout: Rollout, *, final: bool = False) -> None:
        """Write a dialogue down: as done, or to be taken up again. `final`: a fault is not played again."""
        if any(was_away(turn.verdict) for turn in rollout.turns) or (rollout.fault is not None and not final):
            self._faults.append(Fault(attempt=self.attempt, rollout=rollout))
        else:
            self.done.append(rollout)
        self.broken += rollout.fault is not None
        self.finished += rollout.fault is None

    def unjudged_keys(self) -> list[str]:
        """The dialogues that were played to their end and lack verdicts, by key."""
        latest: dict[str, tuple[int, bool]] = {}
        for fault in self._faults:
            key = fault.rollout.key
            if key not in self.done and latest.get(key, (0, False))[0] <= fault.attempt:
                latest[key] = (fault.attempt, fault.rollout.fault is None)
        return [key for key, (_, complete) in latest.items() if complete]

    def unjudged(self) -> Iterator[Rollout]:
        """Those dialogues, one at a time: there may be many."""
        wanted = set(self.unjudged_keys())
        latest = {f.rollout.key: f.attempt for f in self._faults if f.rollout.key in wanted}
        for fault in self._faults:
            if latest.get(fault.rollout.key) == fault.attempt < self.attempt:
                yield fault.rollout

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.close()
        self._faults.close()


class Fault(Record):
    """A dialogue that broke off or lacks verdicts, and in which attempt (each run of the command is one)."""

    attempt: int
    rollout: Rollout

    @property
    def key(self) -> str:
        return f"{self.rollout.key}@{self.attempt}"


class _Place:
    """Where a dialogue stands: which file, and from where to where."""

    __slots__ = ("attempt", "number", "start")

    def __init__(self, start: int, number: int, attempt: int | None) -> None:
        self.start, self.number, self.attempt = start, number, attempt


def outcomes(folder: Path) -> Iterator[Rollout]:
    """Every dialogue once, sorted by key: finished ones, and for those never finished the latest fault.

    Only their places are held in memory. Raises `StorageError` for a line that is no dialogue.
    """
    done, faults = folder / "rollouts.jsonl", folder / "faults.jsonl"
    places = _places(done, fault=False)
    for key, place in _places(faults, fault=True).items():
        places.setdefault(key, place)
    with disk_errors(folder), done.open("rb") as finished, faults.open("rb") as broken:
        for key in sorted(places):
            place = places[key]
            if place.attempt is None:
                finished.seek(place.start)
                yield parse_record(finished.readline(), Rollout, done, place.number)
            else:
                broken.seek(place.start)
                yield parse_record(broken.readline(), Fault, faults, place.number).rollout


def _places(path: Path, *, fault: bool) -> dict[str, _Place]:
    """The place of every dialogue of a journal by its key; of several attempts the latest."""
    found: dict[str, _Place] = {}
    start = 0
    with disk_errors(path), path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            key, attempt = _key(line, path, number, fault=fault)
            known = found.get(key)
            if known is None or attempt is None or (known.attempt is not None and known.attempt <= attempt):
                found[key] = _Place(start, number, attempt)
            start += len(line)
    return found


_OURS = re.compile(rb'\{"script":\{"id":"([^"\\]+)",')
_SAMPLE = re.compile(rb',"sample":(\d+),"turns":\[')
"""A quotation mark inside a JSON text is escaped, so neither pattern is found inside of one."""


def _key(line: bytes, path: Path, number: int, *, fault: bool) -> tuple[str, int | None]:
    """A line's dialogue, and in `faults.jsonl` the attempt; the lines we write need no parser for that."""
    try:
        if not fault and (head := _OURS.match(line)) and (sample := _SAMPLE.search(line, head.end())):
            return f"{head[1].decode()}#{int(sample[1])}", None
        whole = orjson.loads(line)
        said = whole["rollout"] if fault else whole
        return f"{said['script']['id']}#{said.get('sample', 0)}", int(whole["attempt"]) if fault else None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        if fault:  # strictly, to say what is wrong with it
            broken = parse_record(line, Fault, path, number)
            return broken.rollout.key, broken.attempt
        return parse_record(line, Rollout, path, number).key, None


def done_keys(folder: Path) -> set[str]:
    """The dialogues that stand in the folder as done; none where it holds no whole journal."""
    return set(_done_places(folder))


def done_dialogues(folder: Path) -> Callable[[str], Rollout | None]:
    """A look-up, by key, of the dialogues that stand in the folder as done; only their places are held in memory.

    One raises `StorageError` for a line that is no dialogue.
    """
    path, places = folder / "rollouts.jsonl", _done_places(folder)

    def find(key: str) -> Rollout | None:
        place = places.get(key)
        if place is None:
            return None
        with disk_errors(path), path.open("rb") as lines:
            lines.seek(place.start)
            return parse_record(lines.readline(), Rollout, path, place.number)

    return find


def _done_places(folder: Path) -> dict[str, _Place]:
    try:
        return _places(folder / "rollouts.jsonl", fault=False)
    except StorageError:
        return {}


def without_words(rollout: Rollout, verdicts: dict[str, Verdict]) -> Rollout:
    """A dialogue as the counts need it: what was decided, without what was said.

    Equal verdicts become one object, kept in `verdicts`: there are few different ones.
    """
    script = rollout.script.model_copy(
        update={"turns": (_NOTHING_SAID,) * len(rollout.script.turns), "question": None, "facts": (), "images": ()}
    )
    turns = tuple(_without_words(turn, verdicts) for turn in rollout.turns)
    return rollout.model_copy(update={"script": script, "turns": turns})


_NOTHING_SAID = UserTurn(text="-")


def _without_words(turn: Turn, verdicts: dict[str, Verdict]) -> Turn:
    answer = turn.answer.model_copy(update={"text": "", "raw": "", "trace": None})
    verdict = turn.verdict
    if isinstance(verdict, Scored):
        verdict = verdict.model_copy(update={"rationale": "", "proposal": None})
    else:
        verdict = verdict.model_copy(update={"detail": ""})
    verdict = verdicts.setdefault(verdict.model_dump_json(), verdict)
    return turn.model_copy(update={"user": "", "scripted": None, "answer": answer, "verdict": verdict})
