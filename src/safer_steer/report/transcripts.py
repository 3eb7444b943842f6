"""Dialogues as the page shows them: one entry per script and protocol, the models' turns beside one another."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from safer_steer.bench.metrics import dialogue_score, first_failure, passes
from safer_steer.dialogue import AnswerState, ImageRef, Rollout, Script, Turn, stable_id
from safer_steer.errors import ImageError
from safer_steer.report.results import Result
from safer_steer.store import ImageStore
from safer_steer.verdict import Scored, Verdict

LONGEST_TEXT = 20_000
"""Longer texts are cut on the page, and the cut is stated; `rollouts.jsonl` has the whole."""
THUMBNAIL = 160
"""The longer side of an embedded image, in pixels."""


@dataclass(frozen=True, slots=True)
class TurnView:
    """One model's turn. `level` names the colour: `m3 … 0 … 3`, or `x` for unscored."""

    user: str
    answer: str
    cut: int
    attack: str | None
    scripted: str | None
    level: str
    score: str
    helpfulness: int | None
    flags: tuple[str, ...]
    note: str
    unscored: str | None
    state: str | None
    failed: bool


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model's whole dialogue with this script: `None` turns are turns it did not get to."""

    column: int
    label: str
    safety: float | None
    helpfulness: float | None
    passed: bool | None
    first_failure: int | None
    ending: str
    fault: str | None
    strip: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Turn `index` of every model; `user` is set where all models were asked the same."""

    index: int
    user: str | None
    turns: tuple[TurnView | None, ...]


@dataclass(frozen=True, slots=True)
class DialogueView:
    """One script under one protocol, with everything the template shows."""

    anchor: str
    script: Script
    protocol: str
    images: tuple[str, ...]
    models: tuple[ModelView | None, ...]
    rows: tuple[Row, ...]

    @property
    def kind(self) -> str:
        return str(self.script.kind)

    @property
    def failed(self) -> str:
        """The columns of the models that failed, for the page's filter."""
        return " ".join(str(m.column) for m in self.models if m is not None and m.first_failure is not None)

    @property
    def opening(self) -> str:
        return self.script.turns[0].text


def dialogues(results: Sequence[Result], columns: Sequence[str]) -> list[DialogueView]:
    """Every script of every protocol, in a fixed order; `columns` names the models from left to right."""
    found: dict[tuple[str, str], dict[str, Rollout]] = {}
    limits = {(r.protocol, r.model): r.summary.of.safety_pass for r in results}
    for result in results:
        for rollout in result.rollouts:
            found.setdefault((result.protocol, rollout.key), {})[result.model] = rollout
    views: list[DialogueView] = []
    labels = {result.model: result.label for result in results}
    protocols = list(dict.fromkeys(result.protocol for result in results))
    for protocol, key in sorted(found, key=lambda item: (protocols.index(item[0]), item[1])):
        played = [found[protocol, key].get(model) for model in columns]
        models = tuple(
            None if rollout is None else _model(rollout, index, labels[model], limits[protocol, model])
            for index, (model, rollout) in enumerate(zip(columns, played, strict=True))
        )
        views.append(_dialogue(protocol, key, played, models))
    return views


def _dialogue(
    protocol: str, key: str, played: Sequence[Rollout | None], models: tuple[ModelView | None, ...]
) -> DialogueView:
    present = [rollout for rollout in played if rollout is not None]
    script = present[0].script
    longest = max((len(rollout.turns) for rollout in present), default=0)
    return DialogueView(
        anchor=anchor(key, protocol),
        script=script,
        protocol=protocol,
        images=tuple(thumbnail_class(ref) for ref in script.images),
        models=models,
        rows=tuple(_row(index, played) for index in range(1, longest + 1)),
    )


def anchor(key: str, protocol: str) -> str:
    """The page id of a dialogue: its key where that is plain, else a hash of it.

    >>> anchor("seed-3-roleplay#0", "static"), len(anchor("a b<c>#0", "static"))
    ('static-seed-3-roleplay', 24)
    """
    name = key.removesuffix("#0")
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}", name) is not None
    place = re.sub(r"[^a-z0-9]", "-", protocol.lower())
    return f"{place}-{name}" if plain else f"{place}-x{stable_id(key)}"


def _model(rollout: Rollout, column: int, label: str, safety_pass: float) -> ModelView:
    safety = dialogue_score(rollout, "safety")
    return ModelView(
        column=column,
        label=label,
        safety=safety,
        helpfulness=dialogue_score(rollout, "helpfulness"),
        passed=passes(safety, safety_pass),
        first_failure=first_failure(rollout),
        ending=str(rollout.stop).replace("_", " "),
        fault=rollout.fault,
        strip=tuple(_level(turn) for turn in rollout.turns),
    )


def _row(index: int, played: Sequence[Rollout | None]) -> Row:
    turns = [None if r is None or len(r.turns) < index else r.turns[index - 1] for r in played]
    asked = {(turn.user, turn.attack) for turn in turns if turn is not None}
    user, attack = next(iter(asked)) if len(asked) == 1 else (None, None)
    views = tuple(
        None if turn is None or rollout is None else _turn(turn, rollout)
        for turn, rollout in zip(turns, played, strict=True)
    )
    return Row(index, user if attack is None else None, views)


def _turn(turn: Turn, rollout: Rollout) -> TurnView:
    verdict = turn.verdict
    level, score = _level(turn)
    known = isinstance(verdict, Scored)
    state = turn.answer.state
    return TurnView(
        user=turn.user,
        answer=turn.answer.text if state is AnswerState.OK else turn.answer.raw,
        cut=max(0, len(turn.answer.raw if state is not AnswerState.OK else turn.answer.text) - LONGEST_TEXT),
        attack=turn.attack,
        scripted=turn.scripted if turn.scripted != turn.user else None,
        level=level,
        score=score,
        helpfulness=_helpfulness(verdict),
        flags=tuple(flag.replace("_", " ") for flag in verdict.flags) if isinstance(verdict, Scored) else (),
        note=verdict.rationale if isinstance(verdict, Scored) else verdict.detail,
        unscored=None if known or isinstance(verdict, Scored) else str(verdict.reason).replace("_", " "),
        state=None if state is AnswerState.OK else str(state).replace("_", " "),
        failed=first_failure(rollout) == turn.index,
    )


def _helpfulness(verdict: Verdict) -> int | None:
    known = isinstance(verdict, Scored) and "helpfulness" in verdict.scores
    return int(verdict.scores["helpfulness"]) if known and isinstance(verdict, Scored) else None


def _level(turn: Turn) -> tuple[str, str]:
    """The colour name and the text of a turn's safety; to a guard there are the two ends only."""
    if not isinstance(turn.verdict, Scored):
        return "x", "·"
    if "safety" not in turn.verdict.scores:
        return {True: ("m3", "unsafe"), False: ("3", "safe"), None: ("x", "·")}[turn.verdict.failed]
    value = round(turn.verdict.scores["safety"])
    return (f"m{-value}", f"−{-value}") if value < 0 else (str(value), str(value))


def thumbnail_class(ref: ImageRef) -> str:
    """The CSS class that shows an image: each picture stands once in the page's style sheet."""
    return f"i-{ref.sha256[:16]}"


def thumbnail_styles(scripts: Iterable[Script], store: ImageStore) -> str:
    """A CSS rule per image, with the picture in it; an image the store lost becomes an empty frame."""
    refs = {ref.sha256: ref for script in scripts for ref in script.images}
    return "\n".join(_rule(refs[digest], store) for digest in sorted(refs))


def _rule(ref: ImageRef, store: ImageStore) -> str:
    try:
        with store.open(ref) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, format="WEBP", quality=82, method=4)
            width, height = image.size
    except ImageError:
        return f".{thumbnail_class(ref)}{{width:80px;height:80px}}"
    data = base64.b64encode(buffer.getvalue()).decode()
    box = f"width:{width}px;height:{height}px"
    return f".{thumbnail_class(ref)}{{{box};background-image:url(data:image/webp;base64,{data})}}"
