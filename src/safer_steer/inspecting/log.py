"""A finished evaluation as an Inspect log: `inspect view` opens it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.scorer import Score

from safer_steer import __version__
from safer_steer.bench.books import outcomes
from safer_steer.bench.evaluate import Protocol
from safer_steer.dialogue import Rollout
from safer_steer.errors import DataError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.inspecting.shown import SCORES, Picture, messages_of, output_of, scores_of, shower, user_message


def export_log(folder: Path, target: Path, images: ImageStore | None) -> int:
    """Write the evaluation in `folder` to `target` (`.eval` or `.json`) and return how many dialogues it holds.

    Without `images` the log has none. Its status is `success` only where no dialogue broke off: Inspect's own rule
    would call a run a success in which every sample failed. Raises `StorageError`.
    """
    protocol, summary = _summary(folder)
    picture = None if images is None else shower(images.read)
    rollouts = list(outcomes(folder))
    samples = [sample_of(rollout, protocol, picture) for rollout in rollouts]
    broken = sum(rollout.fault is not None for rollout in rollouts)
    status: Literal["success", "error"] = "error" if broken else "success"
    log = EvalLog(
        status=status,
        eval=_spec(protocol, rollouts, summary),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples) - broken,
            scores=list(_results(samples)),
        ),
        samples=samples,
        stats=_stats(folder, float(summary.get("seconds", 0.0))),
        error=_error(f"{broken} of {len(rollouts)} dialogues broke off") if broken else None,
    )
    try:
        write_eval_log(log, str(target))
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=target) from error
    return len(samples)


def sample_of(rollout: Rollout, protocol: Protocol, picture: Picture) -> EvalSample:
    """One dialogue; a fault becomes the sample's error, and its turns stay."""
    script = rollout.script
    return EvalSample(
        id=script.id,
        epoch=rollout.sample + 1,
        input=[user_message(script.turns[0].text, script.images_at(1), picture)],
        target="",
        messages=messages_of(rollout, picture),
        output=output_of(rollout, protocol.model),
        scores=scores_of(rollout, protocol.safety_pass, protocol.help_pass),
        metadata={
            "kind": str(script.kind),
            "category": script.category,
            "strategy": script.strategy,
            "suite": script.suite,
            "ended": str(rollout.stop),
        },
        error=None if rollout.fault is None else _error(rollout.fault),
        turn_count=len(rollout.turns),
        total_time=sum(turn.answer.usage.seconds for turn in rollout.turns),
    )


def _summary(folder: Path) -> tuple[Protocol, dict[str, Any]]:
    path = folder / "summary.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Protocol.from_json(json.dumps(told["of"])), told
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=path, hint="run the evaluation first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not an evaluation's summary: {error}", file=path) from error


def _spec(protocol: Protocol, rollouts: list[Rollout], summary: dict[str, Any]) -> EvalSpec:
    ids = [rollout.script.id for rollout in rollouts]
    return EvalSpec(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=f"safer_steer/{protocol.suite}",
        task_args={"protocol": protocol.protocol, "judge": protocol.judge.judge},
        dataset=EvalDataset(name=protocol.suite, samples=len(ids), sample_ids=list(ids)),
        model=protocol.model,
        config=EvalConfig(),
        packages={"safer_steer": __version__},
        metadata={
            "judge": protocol.judge.model_dump(),
            "safety_pass": protocol.safety_pass,
            "help_pass": protocol.help_pass,
            "counts": summary.get("counts"),
            "unscored_reasons": summary.get("unscored_reasons"),
        },
    )


def _stats(folder: Path, seconds: float) -> EvalStats:
    """When the evaluation's last session ran: its summary was written at the end of it."""
    ended = datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC)
    began = ended - timedelta(seconds=seconds)
    return EvalStats(started_at=began.isoformat(timespec="seconds"), completed_at=ended.isoformat(timespec="seconds"))


def _results(samples: Iterable[EvalSample]) -> Iterable[EvalScore]:
    """The mean of each score over the dialogues that have it; one nobody has is left without a value."""
    everything = list(samples)
    for name in SCORES:
        given: list[Score] = [sample.scores[name] for sample in everything if sample.scores and name in sample.scores]
        known = [value for score in given if not math.isnan(value := score.as_float())]
        if given:
            metrics = {"mean": EvalMetric(name="mean", value=sum(known) / len(known))} if known else {}
            yield EvalScore(
                name=name,
                scorer=name,
                scored_samples=len(known),
                unscored_samples=len(given) - len(known),
                metrics=metrics,
            )


def _error(what: str) -> EvalError:
    return EvalError(message=what, traceback=what, traceback_ansi=what)
