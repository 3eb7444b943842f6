"""How often to try and how long to wait: one layer, bounded, with seeded jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` requests for one answer; waits double from `first_wait` up to `longest_wait` seconds.

    A server's own Retry-After is honoured where it is longer, up to `longest_asked`; beyond that the call fails at
    once rather than sleep for hours.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 20.0
    longest_asked: float = 120.0
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


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, a number or an HTTP date; `None` if absent or unreadable.

    >>> retry_after("1.5"), retry_after(None), retry_after("soon")
    (1.5, None, None)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        pass
    else:
        return seconds if 0 <= seconds < float("inf") else None
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - (datetime.now(UTC) if now is None else now)).total_seconds())
