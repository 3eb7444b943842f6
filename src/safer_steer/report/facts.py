"""What is known of a run besides its evaluations: training steps, data counts, time and memory, the judge's measure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safer_steer.errors import StorageError
from safer_steer.run_folder import RunFolder
from safer_steer.store import disk_errors

STAGES = ("construct", "bootstrap", "sft", "grpo")
TRAINING = {
    "reward": "turn reward, 0…1",
    "unsafe_safety": "tutor's safety on unsafe, 1…10",
    "benign_usefulness": "tutor's usefulness on benign, 1…10",
}
"""The columns of `grpo/metrics.jsonl` that the report draws."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage took; `None` where it was not recorded."""

    name: str
    seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """GRPO by step: the drawn quantities, and what was dropped on the way."""

    steps: tuple[float, ...]
    lines: Mapping[str, tuple[float | None, ...]]
    dropped: int
    unscored: int
    dialogues: int


def training(run: RunFolder) -> Training | None:
    """`grpo/metrics.jsonl`, or `None` when there is none; columns that are missing everywhere are left out."""
    path = run.root / "grpo" / "metrics.jsonl"
    if not path.exists():
        return None
    rows = _json_lines(path)
    if not rows:
        return None
    lines = {title: tuple(_number(row.get(key)) for row in rows) for key, title in TRAINING.items()}
    return Training(
        steps=tuple(float(row.get("step", index)) for index, row in enumerate(rows)),
        lines={title: values for title, values in lines.items() if any(v is not None for v in values)},
        dropped=sum(sum(row.get("dropped", {}).values()) for row in rows),
        unscored=sum(row.get("unscored", 0) for row in rows),
        dialogues=sum(row.get("dialogues", 0) for row in rows),
    )


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file another stage may still be writing; a half-written last line is not there yet."""
    with disk_errors(path):
        whole = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise StorageError(f"not JSON lines: {error}", where=path) from error


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def costs(run: RunFolder, evaluations: Iterable[tuple[str, float]]) -> list[StageCost]:
    """Time and peak memory per finished stage; an evaluation without a record of its own has its summary's seconds."""
    found = []
    for name in STAGES:
        record = run.finished(name)
        if record is not None:
            found.append(StageCost(name, _number(record.get("seconds")), _number(record.get("peak_mb"))))
    for name, seconds in evaluations:
        record = run.finished(f"eval/{name}") or {}
        known = _number(record.get("seconds"))
        found.append(StageCost(f"eval {name}", seconds if known is None else known, _number(record.get("peak_mb"))))
    return found


def data_facts(run: RunFolder) -> list[tuple[str, list[tuple[str, str]]]]:
    """What construct and bootstrap counted, as titled lists of label and text; missing figures are left out."""
    sections = (("Construction", "construct", _CONSTRUCT), ("Bootstrap", "bootstrap", _BOOTSTRAP))
    found = []
    for title, stage, wanted in sections:
        record = run.finished(stage)
        if record is not None:
            rows = [(label, text) for label, keys in wanted if (text := _text(_at(record, keys))) is not None]
            found.append((title, rows))
    return [(title, rows) for title, rows in found if rows]


_CONSTRUCT = (
    ("scripts", ("scripts",)),
    ("by kind", ("kinds",)),
    ("by strategy", ("strategies",)),
    ("mean turns", ("turns", "all", "mean")),
    ("attacks played", ("attacks", "played")),
    ("attacks nobody could judge", ("attacks", "undecided")),
    ("attack success", ("attacks", "success_rate")),
    ("left out", ("left_out",)),
)
_BOOTSTRAP = (
    ("dialogues played", ("played",)),
    ("kept for SFT", ("kept",)),
    ("kept, share", ("kept_share",)),
    ("kept by kind", ("kept_kinds",)),
    ("tutor's means of kept", ("kept_means",)),
    ("dropped", ("dropped",)),
    ("scripts for GRPO", ("rl",)),
    ("scripts for validation", ("val",)),
)


def _at(record: Mapping[str, Any], keys: Sequence[str]) -> object:
    value: object = record
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _text(value: object) -> str | None:
    if isinstance(value, Mapping):
        parts = [f"{str(key).replace('_', ' ')} {_text(inner)}" for key, inner in value.items()]
        return " · ".join(parts) if parts else "none"
    if isinstance(value, bool) or value is None:
        return None
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def offline_judge_measure(judges: Iterable[str]) -> dict[str, float] | None:
    """How far the offline judge was measured to agree with labels; `None` where it is none of the judges."""
    if "offline-judge" not in judges:
        return None
    path = resources.files("safer_steer.actors.offline") / "models" / "measured.json"
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    ours = measured["ours"]
    return {
        "answers": ours["answers"],
        "safety_kappa": ours["all"]["safety"]["weighted_kappa"],
        "safety_spearman": ours["all"]["safety"]["spearman"],
        "helpfulness_kappa": ours["all"]["helpfulness"]["weighted_kappa"],
        "missed": ours["survival_failure"]["missed"],
        "false_alarm": ours["survival_failure"]["false_alarm"],
        "public": measured["public_harm"]["n"],
        "public_spearman": measured["public_harm"]["spearman"],
    }
