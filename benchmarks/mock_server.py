"""An OpenAI-compatible server on loopback that only waits: `python benchmarks/mock_server.py --port N [options]`.

At most `capacity` requests are in service at once, each for `latency` seconds; the others wait in order. A request
that asks for a JSON schema gets a random object of it, any other one a few words; both follow from the request alone.
`GET /stats` tells what it did. It knows as much of HTTP as an honest client on loopback needs: requests with a
Content-Length, over kept connections.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import random
import re
import time
import zlib
from collections import deque
from typing import Any

import orjson

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
WORDS = ("a", "plain", "answer", "that", "says", "what", "the", "picture", "shows", "and", "why", "without", "hurry")
TAIL = 600
"""So many last bytes of a request decide about its reply: the words of the turn lie there."""


class Service:
    """The slots: who is served, who waits."""

    def __init__(self, capacity: int, latency: float) -> None:
        self.free, self.latency = capacity, latency
        self.waiting: deque[tuple[Connection, bytes]] = deque()
        self.requests = self.served = 0
        self.first: float | None = None
        self.last = 0.0

    def stats(self) -> dict[str, Any]:
        busy, span = self.served * self.latency, 0.0 if self.first is None else self.last - self.first
        return {
            "counts": {"requests": self.requests},
            "service_s_total": busy,
            "span_s": span,
            "mean_in_service": round(busy / span, 2) if span else None,
            "server_cpu_s": time.process_time(),
        }

    def submit(self, who: Connection, body: bytes) -> None:
        self.requests += 1
        if self.first is None:
            self.first = time.monotonic()
        if self.free:
            self.free -= 1
            self._start(who, body)
        else:
            self.waiting.append((who, body))

    def _start(self, who: Connection, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.latency:
            loop.call_later(self.latency, self._finish, who, body)
        else:
            loop.call_soon(self._finish, who, body)

    def _finish(self, who: Connection, body: bytes) -> None:
        if self.waiting:
            self._start(*self.waiting.popleft())
        else:
            self.free += 1
        self.served += 1
        self.last = time.monotonic()
        who.reply(completion(body))


class Connection(asyncio.Protocol):
    """One kept connection: cuts requests out of the bytes that come."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pieces: list[bytes] = []
        self.held = self.wanted = 0
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.held += len(data)
        while self.held and self.held >= self.wanted:
            whole = b"".join(self.pieces)
            end = whole.find(b"\r\n\r\n") + 4
            if end < 4:
                self.pieces, self.wanted = [whole], self.held + 1
                return
            length = LENGTH.search(whole, 0, end)
            self.wanted = end + (0 if length is None else int(length[1]))
            if self.held < self.wanted:
                self.pieces = [whole]
                return
            rest = whole[self.wanted :]
            self.pieces, self.held = [rest], len(rest)
            body, self.wanted = whole[end : self.wanted], 0
            self._request(whole[: whole.find(b"\r\n")], body)

    def _request(self, line: bytes, body: bytes) -> None:
        if line.startswith(b"POST ") and b"/chat/completions " in line:
            self.service.submit(self, body)
        elif line.startswith(b"GET /stats "):
            self.reply(orjson.dumps(self.service.stats()))
        elif b"/models " in line:
            self.reply(b'{"object":"list","data":[{"id":"mock","object":"model"}]}')
        else:
            self.reply(b'{"error":{"message":"not found"}}', b"404 Not Found")

    def reply(self, body: bytes, status: bytes = b"200 OK") -> None:
        if self.transport is not None:
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
            self.transport.write(head + body)


def completion(body: bytes) -> bytes:
    """The reply to a request's body."""
    rng = random.Random(zlib.crc32(body[-TAIL:]))
    schema = wanted(body)
    text = words(rng) if schema is None else orjson.dumps(instance(schema, rng, schema)).decode()
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
    return orjson.dumps({"object": "chat.completion", "model": "mock", "choices": [choice], "usage": usage})


def wanted(body: bytes, known: dict[bytes, Any] = {}) -> Any | None:  # noqa: B006 (a cache: there are few schemas)
    """The JSON schema asked for: of `response_format`, which clients send last."""
    at = body.rfind(b'"response_format":')
    if at < 0:
        return None
    form = body[at:]
    if form not in known:
        known[form] = orjson.loads(b"{" + form)["response_format"]["json_schema"]["schema"]
    return known[form]


def words(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(8, 24)))


def instance(schema: dict[str, Any], rng: random.Random, root: dict[str, Any]) -> Any:
    """A random value of a schema, as far as our actors' schemas go."""
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], rng, root)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return instance(next(s for s in schema["anyOf"] if s.get("type") != "null"), rng, root)
    match schema.get("type"):
        case "object":
            return {name: instance(value, rng, root) for name, value in schema["properties"].items()}
        case "array":
            least = schema.get("minItems", 1)
            count = rng.randint(least, schema.get("maxItems", least + 3))
            return [instance(schema["items"], rng, root) for _ in range(count)]
        case "integer" | "number":
            low = schema.get("minimum", 0)
            return rng.randint(math.ceil(low), math.floor(schema.get("maximum", low + 10)))
        case "boolean":
            return rng.random() < 0.5
        case _:
            return schema["const"] if "const" in schema else words(rng)


async def serve(port: int, capacity: int, latency: float) -> None:
    service = Service(capacity, latency)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(service), "127.0.0.1", port, backlog=4096
    )
    gc.freeze()
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--capacity", type=int, default=64)
    parser.add_argument("--latency", default="fixed:0.2", help="fixed:SECONDS")
    options = parser.parse_args()
    seconds = float(options.latency.removeprefix("fixed:"))
    try:
        asyncio.run(serve(options.port, options.capacity, seconds))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
