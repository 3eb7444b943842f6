"""What a model server is asked to bear, and what it charges: the `endpoints:` section of a recipe.

Defaults of every limit stand here and nowhere else.
"""

from __future__ import annotations

import random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class _Limits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def over(self, base: Self) -> Self:
        """These values where they were given, `base`'s elsewhere; sections inside are laid over each other too."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in own.items():
            if isinstance(value, _Limits):
                own[name] = value.over(getattr(base, name))
        return base.model_copy(update=own)


class RetryPolicy(_Limits):
    """At most `attempts` requests for one answer; waits double from `first_wait` up to `longest_wait` seconds.

    A server's own Retry-After is honoured where it is longer, up to `longest_asked`; beyond that the call fails at
    once rather than sleep for hours. A run may retry `budget` times and once more for every `1/budget_share` answers
    of that server; then it stops, for the server is not well.
    """

    attempts: Count = 6
    first_wait: Annotated[float, Field(ge=0)] = 0.5
    longest_wait: Annotated[float, Field(ge=0)] = 20.0
    longest_asked: Annotated[float, Field(ge=0)] = 120.0
    budget: Annotated[int, Field(ge=0)] = 400
    budget_share: Annotated[float, Field(ge=0)] = 0.25
    seed: int = 0

    def wait(self, attempt: int, asked: float | None, label: object) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1), or `None` to give up.

        The jitter (half to the whole of the step) follows from `seed`, `label` and `attempt` alone.
        """
        if attempt >= self.attempts or (asked is not None and asked > self.longest_asked):
            return None
        step = min(self.longest_wait, self.first_wait * 2.0 ** (attempt - 1))
        jittered = step * random.Random(f"{self.seed}/{label}/{attempt}").uniform(0.5, 1.0)
        return jittered if asked is None else max(asked, 0.0) + jittered * 0.1

    def allowed(self, answered: int) -> int:
        """How many retries a run may have made by the time it has `answered` answers.

        >>> RetryPolicy(budget=10, budget_share=0.5).allowed(answered=8)
        14
        """
        return self.budget + int(self.budget_share * answered)


class Price(_Limits):
    """What a model charges for a million tokens, as its user knows it; none is built in."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]
    currency: Annotated[str, Field(min_length=1)] = "USD"

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The cost of so many tokens.

        >>> Price(prompt=2, completion=8).of(1_000_000, 500_000)
        6.0
        """
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Limits(_Limits):
    """What one server is asked to bear; everybody who asks it shares these. `timeout` and `connect` are per attempt.

    `requests_per_minute` and `tokens_per_minute` (prompt and completion together) are kept in every window of a
    minute, by spacing the requests evenly; `None` is no limit. `prices` are by model name.
    """

    concurrency: Count = 64
    timeout: Seconds = 180.0
    connect: Seconds = 10.0
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    retry: RetryPolicy = RetryPolicy()
    prices: dict[str, Price] = Field(default_factory=dict)
