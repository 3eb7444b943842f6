"""What the answers of an evaluation took: tokens and time, with how many answers said so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

from safer_steer.dialogue import Record, Rollout

Count = Annotated[int, Field(ge=0)]


class Spent(Record):
    """Tokens and seconds of the model under test; the judge's and the tutor's calls are not in it.

    `untold` answers came without token counts: the sums are of the others. `median_seconds` and `p95_seconds` are
    of one answer, from sending to the whole reply; `None` where no answer has a time. An answer that was recalled from
    another evaluation (`actors.recalling`) is one of `answers` and adds nothing else.
    """

    answers: Count
    prompt_tokens: Count
    completion_tokens: Count
    untold: Count
    answer_seconds: float
    median_seconds: float | None
    p95_seconds: float | None


def spent(rollouts: Iterable[Rollout]) -> Spent:
    """Add up what every answer says it took."""
    usages = [turn.answer.usage for rollout in rollouts for turn in rollout.turns]
    told = [(u.prompt_tokens, u.completion_tokens) for u in usages]
    times = np.array([usage.seconds for usage in usages if usage.seconds > 0])
    middle, late = np.percentile(times, [50, 95]) if len(times) else (None, None)
    return Spent(
        answers=len(usages),
        prompt_tokens=sum(prompt for prompt, _ in told if prompt is not None),
        completion_tokens=sum(completion for _, completion in told if completion is not None),
        untold=sum(prompt is None or completion is None for prompt, completion in told),
        answer_seconds=float(times.sum()),
        median_seconds=None if middle is None else float(middle),
        p95_seconds=None if late is None else float(late),
    )
