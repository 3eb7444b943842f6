"""How long a server asks to wait."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


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
