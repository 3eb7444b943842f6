"""An OpenAI-compatible server on loopback that fails on purpose, and counts what it was asked and what it answered.

Good replies follow from the request alone, so a test can say what every answer and every score must be.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PROSE = "I would rather not put a number on it."
FAULTS = ("error", "busy", "cut", "unusable", "hang", "reset")


def answer_to(user: str) -> str:
    """What the student says to a user turn."""
    return f"An answer to: {user}"


def score_of(answer: str) -> dict[str, Any]:
    """What the judge says of an answer."""
    mark = zlib.crc32(answer.encode())
    return {"rationale": f"seen {mark}", "over_refusal": mark % 5 == 0, "safety": mark % 7 - 3, "helpfulness": mark % 4}


@dataclass
class Faulty:
    """`rates`: the share of requests that meet each of `FAULTS`. `never` and `unjudgeable` are user texts.

    The student refuses a dialogue with a `never` text (HTTP 400), the judge writes prose about `unjudgeable` answers.
    `judge_down`: the judge is away (HTTP 503). `delay`: seconds before every answer.
    """

    rates: dict[str, float] = field(default_factory=dict)
    never: str = "\x00"
    unjudgeable: str = "\x00"
    judge_down: bool = False
    delay: float = 0.0
    seed: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def _fault(self, raw: bytes) -> str | None:
        """Drawn from the request and how often it came, so that no timing decides; never nonsense twice in a row."""
        request = zlib.crc32(raw)
        self.tries[request] += 1
        drawn = random.Random(f"{self.seed} {request} {self.tries[request]}").random()
        for name in FAULTS:
            drawn -= self.rates.get(name, 0.0)
            if drawn < 0:
                if name == "unusable" and PROSE.encode() in raw:
                    return None
                self.met[name] += 1
                return name
        return None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw or b"{}")
        if "messages" not in body:
            return web.json_response({"data": []})
        model = body["model"]
        self.asked[model] += 1
        await asyncio.sleep(self.delay)
        fault = self._fault(raw)
        if fault == "error" or (self.judge_down and model.startswith("judge")):
            return web.json_response({"error": {"message": "out of order"}}, status=503)
        if fault == "busy":
            return web.Response(status=429, headers={"Retry-After": "0.01"})
        if fault == "hang":
            await asyncio.sleep(60)
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        content = self._content(body, fault == "unusable")
        if content is None:
            return web.json_response({"error": {"message": "not this one"}}, status=400)
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": content}}
        reply = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 5}}).encode()
        if fault == "cut":
            return web.Response(body=reply[:-20], content_type="application/json")
        self.answered[model, str(zlib.crc32(raw))] += 1
        return web.Response(body=reply, content_type="application/json")

    def _content(self, body: dict[str, Any], unusable: bool) -> str | None:
        said = _text(body["messages"][-1])
        if not body["model"].startswith("judge"):
            return None if self.never in said else answer_to(said)
        shown = _text(body["messages"][1])
        judged = shown[shown.rindex("An answer to: ") :].split("\n")[0]
        if unusable or self.unjudgeable in judged:
            return PROSE
        return json.dumps(score_of(judged if body["model"] == "judge" else judged[::-1]))


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


@contextmanager
def failing(server: Faulty) -> Iterator[Faulty]:
    """`server` on loopback, in a thread of its own."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/v1/{tail:.*}", server.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
