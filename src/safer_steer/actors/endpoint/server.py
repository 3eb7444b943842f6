"""One server: its connection pool, its slots, its pace, its key, and the budget of retries against it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.request import getproxies_environment

import aiohttp
from yarl import URL

from safer_steer.actors.endpoint.address import check_base_url, is_loopback, read_key
from safer_steer.actors.endpoint.body import Body
from safer_steer.actors.endpoint.pace import Pace, Slots
from safer_steer.actors.endpoint.reply import Fault, failure
from safer_steer.actors.endpoint.retry import retry_after
from safer_steer.dialogue import Usage
from safer_steer.errors import EndpointError, StageError
from safer_steer.limits import Limits
from safer_steer.scope import URGENCY

REFUSALS_BEFORE_HOLDING = 3
"""So many 429 in a row, with no answer between, and everybody waits, not only who was refused."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: status, body (the key blotted out), Retry-After, the tokens booked, the seconds it took."""

    status: int
    body: bytes
    wait: float | None
    booked: float
    seconds: float


class Endpoint:
    """One server: its connections, its limits, its key. Every model on it shares these.

    `answered` and `retried` (by cause) count what happened so far. Raises `ConfigError` for a malformed address, or
    when there is no key and the server is not on loopback.
    """

    def __init__(
        self,
        base_url: str,
        *,
        limits: Limits | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self.limits = Limits() if limits is None else limits
        self._key = read_key(self.base_url, os.environ if environ is None else environ)
        self._url = URL(f"{self.base_url}/chat/completions")
        self._slots = Slots(self.limits.concurrency)
        self._pace = Pace(self.limits.requests_per_minute, self.limits.tokens_per_minute)
        self._refused = 0
        self.answered = 0
        self.retried: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None
        self._reached = False

    async def check(self) -> None:
        """Ask for the list of models, so that a dead address or a refused key is known before any dialogue.

        Raises `EndpointError`; a server without such a list is fine.
        """
        try:
            reply = await self._send("GET", URL(f"{self.base_url}/models"), None)
        except Fault as fault:
            raise EndpointError(str(fault), where=self.base_url, hint="is the server up?") from None
        if reply.status in (401, 403):
            raise failure(reply.status, reply.body, reply.wait, base_url=self.base_url, model="-")

    async def exchange(self, body: Callable[[], Body], url: URL | None = None) -> Response:
        """One attempt at a chat completion, or at what `url` of this server does, in a slot and at the pace.

        The body is made when its turn has come: what waits for a slot takes no room. Raises `Fault` or `EndpointError`.
        """
        await self._slots.take(URGENCY.get())
        try:
            booked = await self._pace.turn()
            reply = await self._send("POST", self._url if url is None else url, body(), booked)
        finally:
            self._slots.give()
        if reply.status == 429:
            self._hold_back(reply.wait)
        elif reply.status == 200:
            self._refused = 0
        return reply

    def _hold_back(self, wait: float | None) -> None:
        self._refused += 1
        if self._refused >= REFUSALS_BEFORE_HOLDING:
            retry = self.limits.retry
            self._pace.hold(min(retry.first_wait if wait is None else wait, retry.longest_asked))

    def account(self, booked: float, usage: Usage) -> None:
        """One more answer, and what it took."""
        self.answered += 1
        if usage.prompt_tokens is not None and usage.completion_tokens is not None:
            self._pace.settle(booked, usage.prompt_tokens + usage.completion_tokens)

    async def pause(self, attempt: int, fault: Fault, *, model: str, label: object) -> None:
        """Wait before the next attempt. Raises `EndpointError` when this call has used up its attempts.

        Raises `StageError` when the run has used up its retries: a server that unwell makes a run of faults.
        """
        retry = self.limits.retry
        seconds = retry.wait(attempt, fault.wait, label)
        if seconds is None:
            asked = "" if fault.wait is None else f", asked to wait {fault.wait:g} s"
            what = f"no answer from '{model}' after {attempt} attempt{'s' * (attempt > 1)}{asked}: {fault}"
            raise EndpointError(what, where=self.base_url)
        if self.retried.total() >= retry.allowed(self.answered):
            what = f"{self.retried.total()} retries for {self.answered} answers, no more are allowed; the last: {fault}"
            hint = "nothing answered is lost: mend the server, or raise retry.budget, and run the same command again"
            raise StageError(what, where=self.base_url, hint=hint)
        self.retried[fault.cause] += 1
        await asyncio.sleep(seconds)

    async def _send(self, method: str, url: URL, body: Body | None, booked: float = 0.0) -> Response:
        session, began = self._open(), time.perf_counter()
        try:
            async with session.request(method, url, data=body, allow_redirects=False) as response:
                self._reached = True
                reply, status = self._redact(await response.read()), response.status
                wait = None if status == 200 else retry_after(response.headers.get("Retry-After"))
                return Response(status, reply, wait, booked, time.perf_counter() - began)
        except aiohttp.ConnectionTimeoutError:
            raise Fault(f"no connection within {self.limits.connect:g} s", cause="timeout") from None
        except TimeoutError:
            raise Fault(f"no reply within {self.limits.timeout:g} s", cause="timeout") from None
        except aiohttp.ClientPayloadError:
            raise Fault("the reply was cut off", cause="cut off") from None
        except aiohttp.ClientConnectorCertificateError:
            raise EndpointError("the server's certificate is not valid", where=self.base_url) from None
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except aiohttp.ClientError as error:
            # Only the kind: some of these carry the request's headers, and with them the key.
            raise Fault(f"the connection broke ({type(error).__name__})", cause="connection") from None

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> Exception:
        """A server that never answered is a wrong address; one that did may be restarting."""
        what = f"cannot connect: {error.os_error.strerror or error.os_error}"
        if self._reached:
            return Fault(what, cause="connection")
        return EndpointError(what, where=self.base_url, hint="is the server up, and the address right?")

    def _redact(self, reply: bytes) -> bytes:
        return reply if self._key is None else reply.replace(self._key.encode(), b"***")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=self.limits.timeout, sock_connect=self.limits.connect),
                headers=headers,
                skip_auto_headers=("Accept-Encoding", "Accept"),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=not is_loopback(self.base_url) and bool(getproxies_environment()),
            )
        return self._session

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
