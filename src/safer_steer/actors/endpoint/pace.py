"""Requests and tokens per minute, kept by spacing; and the slots of a server, handed to the most urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable

MINUTE = 60.0
FIRST_GUESS = 1000.0
"""Tokens a request is taken for before the server has told what one costs."""
WEIGHT = 0.1
"""How much one reply moves the running mean of tokens per request."""


class Pace:
    """Spaces the requests of one server so that no window of a minute holds more than its limits.

    A request starts no earlier than `60 / requests_per_minute` seconds after the one before. Tokens are only known
    afterwards: a request is booked at the running mean of what requests cost, and its reply corrects the booking.
    `hold` keeps everybody back for a while (the server said so).
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap = 0.0 if requests_per_minute is None else MINUTE / requests_per_minute
        self._per_token = 0.0 if tokens_per_minute is None else MINUTE / tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._next_request = self._next_tokens = self._held = float("-inf")
        self._mean = FIRST_GUESS

    async def turn(self) -> float:
        """Wait for this request's moment; returns the tokens booked for it, for `settle`."""
        now = self._clock()
        start = max(now, self._next_request, self._next_tokens, self._held)
        booked = self._mean
        self._next_request = start + self._gap
        self._next_tokens = max(self._next_tokens, start) + booked * self._per_token
        if start > now:
            await self._sleep(start - now)
        return booked

    def settle(self, booked: float, used: int | None) -> None:
        """Correct a booking by what the reply says was used (`None`: it does not say)."""
        if used is None:
            return
        self._next_tokens += (used - booked) * self._per_token
        self._mean += WEIGHT * (used - self._mean)

    def hold(self, seconds: float) -> None:
        """Let nobody start for `seconds`."""
        self._held = max(self._held, self._clock() + seconds)


class Slots:
    """At most `limit` requests in flight; a free slot goes to the smallest urgency, then to whoever came first."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    async def take(self, urgency: int) -> None:
        """Wait for a slot; whoever got one must `give` it back."""
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given in the very moment of the cancellation
                self.give()
            raise

    def give(self) -> None:
        """Hand a slot on."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
