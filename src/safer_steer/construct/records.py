"""What Stage I notes down while it works: one line per finished piece of work, and why something was left out."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from safer_steer.actors.generating import Probe
from safer_steer.dialogue import Record, Script, ScriptKind, Split


class Reason(StrEnum):
    """Why a script is not in the data."""

    GENERATOR_FAULT = "generator_fault"
    GENERATOR_UNREACHABLE = "generator_unreachable"
    GENERATOR_REFUSED = "generator_refused"
    MALFORMED = "malformed"
    NO_LEAK = "no_leak"
    UNSCORED = "unscored"
    PLAY_FAULT = "play_fault"
    NEAR_DUPLICATE = "near_duplicate"
    CROSSES_SPLITS = "crosses_splits"
    IMAGE_CROSSES_SPLITS = "image_crosses_splits"


class Failure(Record):
    """Why a piece of work yielded nothing."""

    reason: Reason
    detail: str


class Probed(Record):
    """A harmful seed's two rewrites, or why there are none."""

    seed_id: str
    probe: Probe | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.probe is None) == (self.failure is None):
            raise ValueError("exactly one of probe and failure")
        return self


class Analysed(Record):
    """What a harmful seed's images offer an attack (`None`: it has no image), or why that is not known."""

    seed_id: str
    findings: str | None = None
    failure: Failure | None = None


class Written(Record):
    """What became of one order: a script, or why there is none."""

    key: str
    seed_id: str
    kind: ScriptKind
    strategy: str | None
    split: Split | None
    script: Script | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.script is None) == (self.failure is None):
            raise ValueError("exactly one of script and failure")
        return self

    @property
    def is_filtered(self) -> bool:
        """Whether the success filter decides over it: the red-team scripts that will be trained on."""
        return self.kind is ScriptKind.RED_TEAM and self.split is Split.TRAIN


class Rejected(Record):
    """A script (or an order that never became one) that is left out of the data, and why."""

    key: str
    seed_id: str
    kind: ScriptKind
    strategy: str | None
    split: Split | None
    reason: Reason
    detail: str
    script: Script | None = None


def unanswered(entry: Probed | Analysed | Written) -> bool:
    """Whether nothing came of it because the generator's server was away."""
    return entry.failure is not None and entry.failure.reason is Reason.GENERATOR_UNREACHABLE


def rejected(written: Written, failure: Failure) -> Rejected:
    """Leave out what one order became."""
    return Rejected(
        key=written.key,
        seed_id=written.seed_id,
        kind=written.kind,
        strategy=written.strategy,
        split=written.split,
        reason=failure.reason,
        detail=failure.detail,
        script=written.script,
    )
