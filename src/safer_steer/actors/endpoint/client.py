"""The client: one connection pool and one concurrency limit per server, and the one loop that retries."""

from __future__ import annotations

import asyncio
import io
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies_environment

import aiohttp
from pydantic import BaseModel
from yarl import URL

from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.actors.endpoint.address import check_base_url, is_loopback, read_key
from safer_steer.actors.endpoint.body import message_bytes, request_body
from safer_steer.actors.endpoint.dialect import Dialect, learn
from safer_steer.actors.endpoint.images import ImageFragments
from safer_steer.actors.endpoint.reply import Fault, failure, read_completion, read_error
from safer_steer.actors.endpoint.retry import RetryPolicy, retry_after
from safer_steer.errors import ContextOverflow, EndpointError

_LARGE_BODY = 2**20  # aiohttp wants larger bodies as a stream, so as not to hold up the loop


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server is asked to bear. `timeout` and `connect` are seconds per attempt."""

    concurrency: int = 64
    timeout: float = 180.0
    connect: float = 10.0


class Endpoint:
    """One server: its connections, its concurrency limit, its key. Make models on it with `model`.

    Raises `ConfigError` for a malformed address, or when there is no key and the server is not on loopback.
    """

    def __init__(
        self,
        base_url: str,
        *,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self.limits = Limits() if limits is None else limits
        self.retry = RetryPolicy() if retry is None else retry
        self._key = read_key(self.base_url, os.environ if environ is None else environ)
        self._url = URL(f"{self.base_url}/chat/completions")
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._reached = False

    def model(self, name: str, images: ImageFragments) -> EndpointModel:
        """The model `name` on this server."""
        return EndpointModel(self, name, images)

    async def check(self) -> None:
        """Ask for the list of models, so that a dead address or a refused key is known before any dialogue.

        Raises `EndpointError`; a server without such a list is fine.
        """
        try:
            status, body, wait = await self._send("GET", URL(f"{self.base_url}/models"), None)
        except Fault as fault:
            raise EndpointError(str(fault), where=self.base_url, hint="is the server up?") from None
        if status in (401, 403):
            raise failure(status, body, wait, base_url=self.base_url, model="-")

    async def post(self, body: bytes, url: URL | None = None) -> tuple[int, bytes, float | None]:
        """One attempt at a chat completion, or at what `url` of this server does: status, body and Retry-After.

        Raises `Fault` or `EndpointError`.
        """
        async with self._slots:
            return await self._send("POST", self._url if url is None else url, body)

    async def _send(self, method: str, url: URL, body: bytes | None) -> tuple[int, bytes, float | None]:
        session = self._open()
        data: Any = io.BytesIO(body) if body is not None and len(body) >= _LARGE_BODY else body
        try:
            async with session.request(method, url, data=data, allow_redirects=False) as response:
                self._reached = True
                reply = await response.read()
                if response.status == 200:
                    return 200, reply, None
                return response.status, self._redact(reply), retry_after(response.headers.get("Retry-After"))
        except TimeoutError:
            raise Fault(f"no reply within {self.limits.timeout:g} s") from None
        except aiohttp.ClientPayloadError:
            raise Fault("the reply was cut off") from None
        except aiohttp.ClientConnectorCertificateError:
            raise EndpointError("the server's certificate is not valid", where=self.base_url) from None
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except aiohttp.ClientError as error:
            # Only the kind: some of these carry the request's headers, and with them the key.
            raise Fault(f"the connection broke ({type(error).__name__})") from None

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> Exception:
        """A server that never answered is a wrong address; one that did may be restarting."""
        what = f"cannot connect: {error.os_error.strerror or error.os_error}"
        if self._reached:
            return Fault(what)
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


class EndpointModel:
    """One model on an `Endpoint`, as a `ChatModel`."""

    def __init__(self, endpoint: Endpoint, name: str, images: ImageFragments) -> None:
        self.name = name
        self._endpoint, self._images = endpoint, images
        self._dialect = Dialect()

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
    ) -> Completion:
        """Ask until there is an answer or the budget is spent.

        Raises `EndpointError`, `ContextOverflow`, or `ImageError` when an image cannot be read.
        """
        parts = [message_bytes(m, [await self._images.get(ref) for ref in m.images]) for m in messages]
        attempt = 1
        while True:
            dialect = self._dialect
            body = request_body(self.name, parts, sampling, schema, dialect)
            try:
                completion = await self._attempt(body, dialect)
            except Fault as fault:
                await self._pause(attempt, fault, body)
                attempt += 1
                continue
            if completion is not None:
                return completion

    async def _attempt(self, body: bytes, dialect: Dialect) -> Completion | None:
        """One request. `None`: the server taught us its dialect, ask again in it (a dialect only ever shrinks)."""
        began = time.perf_counter()
        status, reply, wait = await self._endpoint.post(body)
        if status == 200:
            return read_completion(reply, time.perf_counter() - began)
        error = failure(status, reply, wait, base_url=self._endpoint.base_url, model=self.name)
        if status in (400, 422) and not isinstance(error, ContextOverflow) and self._learn(reply, dialect):
            return None
        raise error

    def _learn(self, reply: bytes, dialect: Dialect) -> bool:
        """Adapt to a 400; requests already under way in the old dialect simply follow."""
        error = read_error(reply)
        learned = learn(dialect, error.param, error.message)
        if learned is None:
            return False
        if self._dialect == dialect:
            self._dialect = learned
        return self._dialect != dialect

    async def _pause(self, attempt: int, fault: Fault, body: bytes) -> None:
        retry = self._endpoint.retry
        seconds = retry.wait(attempt, fault.wait, zlib.crc32(body))
        if seconds is None:
            asked = "" if fault.wait is None else f", asked to wait {fault.wait:g} s"
            what = f"no answer from '{self.name}' after {attempt} attempt{'s' * (attempt > 1)}{asked}: {fault}"
            raise EndpointError(what, where=self._endpoint.base_url)
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        """Close the endpoint's connections (every model on it shares them) and the image threads."""
        await self._endpoint.aclose()
        self._images.close()
