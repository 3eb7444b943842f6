"""OpenAI's moderation endpoint as a judge: `POST {base}/moderations`, which is no chat."""

from __future__ import annotations

import zlib
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yarl import URL

from safer_steer.actors.endpoint import Endpoint
from safer_steer.actors.endpoint.reply import Fault, failure
from safer_steer.actors.guards import GuardKind
from safer_steer.dialogue import History, Usage
from safer_steer.errors import BadVerdict
from safer_steer.prompts import neutralise
from safer_steer.verdict import GUARD, GuardReading, Scored, Stamp, UnscoredReason, Verdict


class _Result(BaseModel):
    """One classified text. Fields that later versions of the service add are let through."""

    model_config = ConfigDict(extra="ignore", strict=True)

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, Annotated[float, Field(ge=0, le=1)] | None]


class _Moderation(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    results: Annotated[list[_Result], Field(min_length=1, max_length=1)]


def read_moderation(body: bytes) -> tuple[bool, GuardReading]:
    """Whether the service flags the text, and what it says beside. `unsafe_prob` is the highest category score.

    Raises `Fault` for a body that is cut off, `BadVerdict` for one of another shape.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Fault(f"the reply is not JSON, {len(body)} bytes, maybe cut off", cause="cut off") from None
    try:
        result = _Moderation.model_validate(data).results[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"not a moderation: field '{place}': {first['msg']}"
        raise BadVerdict(what, reason=UnscoredReason.UNPARSEABLE) from None
    scores = [score for score in result.category_scores.values() if score is not None]
    return result.flagged, GuardReading(
        unsafe_prob=max(scores, default=None),
        categories=tuple(sorted(name for name, hit in result.categories.items() if hit)),
        raw=result.model_dump_json(),
    )


class ModerationGuard:
    """The moderation model `name` on an endpoint. It is shown the answer alone: it knows no dialogues.

    `assess` raises `BadVerdict` for a reply that is no moderation, and `EndpointError`.
    """

    scale = GUARD

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint, self._name = endpoint, name
        self._url = URL(f"{endpoint.base_url}/moderations")
        self.stamp = Stamp(judge=f"{GuardKind.OPENAI_MODERATION} {name}", prompt="the answer alone", version="1")

    async def assess(self, history: History, answer: str) -> Verdict:
        body = orjson.dumps({"model": self._name, "input": neutralise(answer)})
        unsafe, reading = await self._moderate(body)
        named = ", ".join(reading.categories)
        return Scored(
            scores={"unsafe": float(unsafe)},
            rationale=(f"flagged: {named}" if named else "flagged") if unsafe else "not flagged",
            stamp=self.stamp,
            guard=reading,
        )

    async def _moderate(self, body: bytes) -> tuple[bool, GuardReading]:
        """Ask until there is a reply or the endpoint's retry budget is spent."""
        attempt = 1
        while True:
            try:
                reply = await self._endpoint.exchange(body, self._url)
                if reply.status != 200:
                    raise failure(
                        reply.status, reply.body, reply.wait, base_url=self._endpoint.base_url, model=self._name
                    )
                read = read_moderation(reply.body)
            except Fault as fault:
                await self._endpoint.pause(attempt, fault, model=self._name, label=zlib.crc32(body))
                attempt += 1
                continue
            self._endpoint.account(reply.booked, Usage())
            return read
