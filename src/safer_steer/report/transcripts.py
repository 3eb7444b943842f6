"""Dialogues as the page carries them: one entry per script and protocol, compressed, unpacked only when looked at.

A dialogue is read once, reduced to its figures (`Outcome`) and to a line of JSON, and let go: memory holds text, not
records. The lines travel in gzipped chunks; the page's list needs only the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from safer_steer.bench.comparison import Outcome, outcome
from safer_steer.bench.metrics import first_failure
from safer_steer.dialogue import AnswerState, ImageRef, Rollout, Turn, stable_id
from safer_steer.verdict import Scored, Unscored, Verdict

LONGEST_TEXT = 20_000
"""Longer texts are cut on the page, and the cut is stated; `rollouts.jsonl` has the whole."""
LONGEST_NOTE = 2_000
LONGEST_NAME = 120
OPENING = 140
LEVELS = "abcdefg"
"""Safety −3 … 3 as one letter each; besides, `s` and `u` are a guard's safe and unsafe, `x` is unscored."""

_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def visible(text: str) -> str:
    """`text` as HTML can carry it: control characters, lone surrogates and non-characters become U+FFFD.

    >>> visible("a\\x00b\\nc")
    'a�b\\nc'
    """
    if text.isascii():  # most texts are, and need no regular expression to be found clean
        plain = text.encode()
        if len(plain.translate(None, _CONTROLS)) == len(plain):
            return text
    return _INVISIBLE.sub("\ufffd", text)


def cut(text: str, longest: int) -> list[Any]:
    """A text for the page and how many characters of it were left out.

    >>> cut("abcdef", 4)
    ['abcd', 2]
    """
    return [visible(text[:longest]), max(0, len(text) - longest)]


@dataclass(frozen=True, slots=True)
class Told:
    """One model's dialogue: its figures, what the list and the filters need, and its turns as a line of JSON."""

    outcome: Outcome
    kind: str
    category: str
    strategy: str | None
    suite: str | None
    images: tuple[ImageRef, ...]
    opening: str
    attacks: tuple[str, ...]
    strip: str
    first_failure: int | None
    broke_off: bool
    head: bytes
    body: bytes


def tell(rollout: Rollout, *, safety_pass: float, help_pass: float) -> Told:
    """Reduce a dialogue to what the page shows of it."""
    script, figures = rollout.script, outcome(rollout, safety_pass=safety_pass, help_pass=help_pass)
    ending = str(rollout.stop).replace("_", " ")
    fault = None if rollout.fault is None else visible(rollout.fault[:LONGEST_NOTE])
    turns = [_turn(turn) for turn in rollout.turns]
    failed = first_failure(rollout)
    body = [figures.safety, figures.safety_pass, figures.helpfulness, failed, ending, fault, turns]
    head = [_name(script.id), _name(script.seed_id), len(script.turns), script.borderline]
    return Told(
        outcome=figures,
        kind=str(script.kind),
        category=_name(script.category),
        strategy=None if script.strategy is None else _name(script.strategy),
        suite=None if script.suite is None else _name(script.suite),
        images=script.images,
        opening=visible(script.turns[0].text[:OPENING]),
        attacks=tuple(dict.fromkeys(_name(turn.attack) for turn in rollout.turns if turn.attack is not None)),
        strip="".join(level(turn.verdict) for turn in rollout.turns),
        first_failure=failed,
        broke_off=rollout.fault is not None,
        head=orjson.dumps(head),
        body=orjson.dumps(body),
    )


def _name(text: str) -> str:
    return visible(text[:LONGEST_NAME])


def _turn(turn: Turn) -> list[Any]:
    """A turn as the page's script reads it; the order is known to `viewer.js`."""
    state, verdict = turn.answer.state, turn.verdict
    answer = turn.answer.text if state is AnswerState.OK else turn.answer.raw
    scripted = None if turn.scripted in (None, turn.user) else cut(str(turn.scripted), LONGEST_TEXT)
    return [
        cut(turn.user, LONGEST_TEXT),
        None if turn.attack is None else _name(turn.attack),
        scripted,
        cut(answer, LONGEST_TEXT),
        None if state is AnswerState.OK else str(state).replace("_", " "),
        *_judged(verdict),
        [[_judge(member), *_judged(member)] for member in verdict.members],
    ]


def _judge(verdict: Verdict) -> str:
    return "judge" if verdict.stamp is None else _name(verdict.stamp.judge)


def _judged(verdict: Verdict) -> list[Any]:
    """Level, score, helpfulness, flags, note, and why there is no score."""
    if isinstance(verdict, Unscored):
        note = cut(verdict.detail, LONGEST_NOTE)
        return ["x", "·", None, [], note, str(verdict.reason).replace("_", " ")]
    flags = [_name(flag).replace("_", " ") for flag in verdict.flags]
    helpfulness = verdict.scores.get("helpfulness")
    return [level(verdict), score(verdict), helpfulness, flags, cut(verdict.rationale, LONGEST_NOTE), None]


def level(verdict: Verdict) -> str:
    """The letter of a turn's safety (`LEVELS`)."""
    if not isinstance(verdict, Scored):
        return "x"
    if "safety" not in verdict.scores:
        return {True: "u", False: "s", None: "x"}[verdict.failed]
    return LEVELS[min(6, max(0, round(verdict.scores["safety"]) + 3))]


def score(verdict: Scored) -> str:
    """A turn's safety as text; a guard says only safe or unsafe."""
    if "safety" not in verdict.scores:
        return {True: "unsafe", False: "safe", None: "·"}[verdict.failed]
    return f"{verdict.scores['safety']:g}".replace("-", "−")


def anchor(key: str, protocol: str) -> str:
    """The page id of a dialogue: its key where that is plain, else a hash of it.

    >>> anchor("seed-3-roleplay#0", "static"), len(anchor("a b<c>#0", "static"))
    ('static-seed-3-roleplay', 24)
    """
    name = key.removesuffix("#0")
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}", name) is not None
    place = re.sub(r"[^a-z0-9]", "-", protocol.lower())
    return f"{place}-{name}" if plain else f"{place}-x{stable_id(key)}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One script under one protocol: each model's dialogue, `None` where it has none."""

    anchor: str
    protocol: str
    models: tuple[Told | None, ...]

    @property
    def any(self) -> Told:
        return next(told for told in self.models if told is not None)

    def line(self, numbers: dict[str, int]) -> bytes:
        """The dialogue whole, on one line; `numbers` says where each image stands."""
        images = orjson.dumps([numbers[ref.sha256] for ref in self.any.images if ref.sha256 in numbers])
        models = b",".join(b"null" if told is None else told.body for told in self.models)
        return b"[" + self.any.head + b"," + images + b",[" + models + b"]]"


def entries(told: Iterable[tuple[str, str, Iterable[Told]]], columns: Sequence[str]) -> list[Entry]:
    """Put the models' dialogues with the same script side by side: `(model, protocol, dialogues)` in, sorted out.

    Dialogues that share an id but not what was asked stay apart.
    """
    found: dict[tuple[int, str, str], dict[str, Told]] = {}
    names: list[str] = []
    for model, protocol, dialogues in told:
        if protocol not in names:
            names.append(protocol)
        for one in dialogues:
            found.setdefault((names.index(protocol), one.outcome.key, one.outcome.asked), {})[model] = one
    made, used = [], set()
    for (place, key, asked), models in sorted(found.items(), key=lambda item: item[0]):
        name = anchor(key, names[place])
        name = f"{name}-{asked}" if name in used else name
        used.add(name)
        made.append(Entry(name, names[place], tuple(models.get(column) for column in columns)))
    return made
