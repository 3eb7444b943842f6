"""The records of a conversation: `Seed → Script → Rollout(Turn…)`. One frozen type per arrow.

Images never stand inside a record: an `ImageRef` names a content-addressed blob (see `store.ImageStore`).
Records are strict: an unknown key or a wrong type is an error wherever a record crosses the disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safer_steer.verdict import Verdict

MAX_TURNS = 10
"""The paper's turn budget: dialogues have 2 to 10 turns (single-turn suites have 1)."""


class Record(BaseModel):
    """Base of everything written to disk: frozen, strictly typed, no unknown keys.

    Python construction coerces nothing; `from_json` reads JSON text, where a list stands for a tuple and a
    string for an enum member, as JSON has neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> str:
        """One line of JSON, no newline in it."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Read `to_json`'s line; raises `pydantic.ValidationError`."""
        return cls.model_validate_json(line)


class Split(StrEnum):
    """Which use a seed is for. Nothing is tuned on `TEST`."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class SeedKind(StrEnum):
    HARMFUL = "harmful"
    BENIGN = "benign"


class ScriptKind(StrEnum):
    """The three dialogue kinds of Stage I."""

    RED_TEAM = "red_team"
    OBFUSCATED = "obfuscated"
    BENIGN = "benign"


class ImageRef(Record):
    """A content-addressed image: `sha256` of the encoded bytes as stored."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    media_type: str
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    name: str | None = None


class HarmSlots(Record):
    """Short phrases that fit the offline red agent's and blue expert's sentence frames (no operational detail)."""

    subject: str
    topic: str
    goal: str
    cover: str
    safe: str
    harm: str


class BenignStep(Record):
    """One sub-question of a benign problem, with a reference answer and the key words a right answer has."""

    user: str
    reference: str
    keys: tuple[str, ...]


class Seed(Record):
    """A single-turn seed `(x_i, q_i)` of Stage I, with what is known about it.

    `facts` say what the image verifiably shows. Harmful built-in seeds carry `slots`, benign ones `steps`;
    seeds from public files usually have neither (the generators that write from them are models).
    """

    id: Annotated[str, Field(min_length=1)]
    kind: SeedKind
    category: str
    question: Annotated[str, Field(min_length=1)]
    images: tuple[ImageRef, ...]
    split: Split | None = None
    facts: tuple[str, ...] = ()
    slots: HarmSlots | None = None
    steps: tuple[BenignStep, ...] = ()
    reference: str | None = None
    borderline: bool = False
    source: str = "user"
    licence: str = "unknown"


class UserTurn(Record):
    """One scripted user turn `û_t`, what it is for, and what is known of a good answer.

    `risk` is the planner's level 1 (harmless alone) to 5 (asks for the goal); `None` where nobody planned it.
    `images` come with this turn; those of the whole dialogue stand in `Script.images`.
    """

    text: Annotated[str, Field(min_length=1)]
    aim: str | None = None
    risk: Annotated[int, Field(ge=1, le=5)] | None = None
    reference: str | None = None
    keys: tuple[str, ...] = ()
    images: Annotated[tuple[ImageRef, ...], Field(exclude_if=lambda images: not images)] = ()


class Script(Record):
    """The user side of a dialogue, `(x, û_1 … û_T)`, and where it came from.

    `images` are the dialogue's visual context and stand before `û_1`; a turn may bring images of its own.
    """

    id: Annotated[str, Field(min_length=1)]
    seed_id: str
    kind: ScriptKind
    category: str
    images: tuple[ImageRef, ...]
    turns: Annotated[tuple[UserTurn, ...], Field(min_length=1)]
    split: Split | None = None
    strategy: str | None = None
    suite: str | None = None
    question: str | None = None
    facts: tuple[str, ...] = ()
    slots: HarmSlots | None = None
    borderline: bool = False

    @property
    def is_unsafe(self) -> bool:
        """Whether the dialogue as a whole pursues an unsafe goal."""
        return self.kind is not ScriptKind.BENIGN

    def images_at(self, turn: int) -> tuple[ImageRef, ...]:
        """The images that user turn `turn` (from 1) brings, the dialogue's own with the first."""
        own = self.turns[turn - 1].images if turn <= len(self.turns) else ()
        return self.images + own if turn == 1 else own

    def images_until(self, turn: int) -> tuple[ImageRef, ...]:
        """All images shown in the turns 1 to `turn`, in order."""
        if turn < 1:
            return ()
        return self.images + tuple(ref for shown in self.turns[:turn] for ref in shown.images)


class FinishReason(StrEnum):
    """Why a model stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    FILTER = "filter"


class AnswerFormat(StrEnum):
    """How the assistant writes. `PLAIN`: all it writes is the answer. `TAGGED`: the paper's
    `<thinking>…</thinking><answer>…</answer>`, of which only the answer is shown and judged."""

    PLAIN = "plain"
    TAGGED = "tagged"


class AnswerState(StrEnum):
    """Whether the assistant's raw text yielded an answer that may be shown and judged."""

    OK = "ok"
    EMPTY = "empty"
    FORMAT_FAILURE = "format_failure"


class TokenTrace(Record):
    """The tokens a local model really read and wrote for one answer; nothing is ever tokenised again.

    `context` are the ids added since the previous answer's last id (for the first turn: everything before the
    answer), so `context_1 + response_1 + context_2 + …` is the whole sequence. `logprobs` are the sampling
    policy's, one per response id, at the temperature it sampled with.
    """

    context: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len(self.response) != len(self.logprobs):
            raise ValueError(f"{len(self.response)} response ids but {len(self.logprobs)} logprobs")
        return self


class Usage(Record):
    """What a call cost. Token counts are `None` where the server did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0


class Answer(Record):
    """The assistant turn `a_t`: `text` is what the user sees and the judge judges, `raw` what was written."""

    text: str
    raw: str
    state: AnswerState
    finish: FinishReason
    usage: Usage = Usage()
    trace: TokenTrace | None = None


class Exchange(Record):
    """One user turn as really asked and the answer to it: what later turns may see.

    `scripted` is `û_t` where the user seat said something else; `attack` names the tutor's move, if any.
    """

    index: Annotated[int, Field(ge=1)]
    user: str
    answer: Answer
    scripted: str | None = None
    attack: str | None = None


class Turn(Exchange):
    """A finished exchange with its verdict."""

    verdict: Verdict


class StopReason(StrEnum):
    """How a dialogue ended. Only `COMPLETED` and `CRITERION` are proper endings.

    `USER_FAULT`: the user seat gave no reply. `USER_UNUSABLE`: it replied, but with nothing that a user would say, and
    would do so again.
    """

    COMPLETED = "completed"
    CRITERION = "criterion"
    ASSISTANT_FAULT = "assistant_fault"
    USER_FAULT = "user_fault"
    USER_UNUSABLE = "user_unusable"
    JUDGE_FAULT = "judge_fault"
    FORMAT_FAILURE = "format_failure"
    CONTEXT_OVERFLOW = "context_overflow"


class Rollout(Record):
    """One played dialogue `D`: every turn with its verdict, and how it ended.

    `sample` tells the K rollouts of one script apart. `fault` says what went wrong, exactly when `stop` is a fault.
    """

    script: Script
    sample: Annotated[int, Field(ge=0)] = 0
    turns: tuple[Turn, ...]
    stop: StopReason
    fault: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        proper = self.stop in (StopReason.COMPLETED, StopReason.CRITERION)
        if proper == (self.fault is not None):
            raise ValueError(f"stop={self.stop} does not go with fault={self.fault!r}")
        if [turn.index for turn in self.turns] != list(range(1, len(self.turns) + 1)):
            raise ValueError("turns must be numbered 1..T without gaps")
        return self

    @property
    def key(self) -> str:
        """What resume goes by: `script id` and sample number."""
        return f"{self.script.id}#{self.sample}"


@dataclass(frozen=True, slots=True)
class History:
    """What everybody may see before answer t: `h_t = (x, u_1, a_1, …, u_{t-1}, a_{t-1}, u_t)`."""

    script: Script
    exchanges: tuple[Exchange, ...]
    user: str
    sample: int = 0

    @property
    def index(self) -> int:
        """The number t of the turn being answered, from 1."""
        return len(self.exchanges) + 1

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every image shown so far, that of this turn included."""
        return self.script.images_until(self.index)

    @property
    def scripted_next(self) -> str | None:
        """`û_{t+1}`, or `None` at the script's end."""
        return self.script.turns[self.index].text if self.index < len(self.script.turns) else None


def stable_id(*parts: Any) -> str:
    """A 16-hex-digit id of the parts' text, the same in every process and on every machine.

    >>> stable_id("seed-1", "roleplay", 0) == stable_id("seed-1", "roleplay", 0)
    True
    """
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:16]
