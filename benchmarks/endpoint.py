"""The evaluation's hot path against a mock server, a minimal aiohttp loop, and the ideal bound, in one run.

    python benchmarks/endpoint.py [--capacity 64,256] [--memory] [--mock PATH --mock-python PYTHON]

Job: 300 dialogues of 2 to 10 turns (2,416 in all), one image each (61 KB as base64), one answer and one verdict per
turn, against a server that serves at most `capacity` requests at once, 200 ms each. The ideal is
max(total service / capacity, the longest dialogue). Every client runs in a process of its own:

peer     a minimal aiohttp loop: images encoded once in threads, bodies by orjson, the judge overlaps the next turn;
         it keeps its answers in memory and nothing else
ours     `run_eval` as `safer-steer eval` runs it: seats, prompts, parsing, retries, limits, journal and ledger
encoded  the same, with the images encoded before the clock starts

`--memory` plays 3,227 dialogues of 10 turns at 0 ms and tells the peak memory. The server is `mock_server.py`, or any
other OpenAI-compatible one with the options --port, --capacity and --latency.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
from PIL import Image

from safer_steer.actors.chat import Sampling
from safer_steer.actors.specs import Seating
from safer_steer.bench.evaluate import Evaluation, Session, run_eval
from safer_steer.config import EvalConfig, recipe_from
from safer_steer.dialogue import ImageRef, Script, ScriptKind, UserTurn
from safer_steer.image_store import ImageStore
from safer_steer.progress import Silent
from safer_steer.seats import ScriptUser

SERVICE = 0.2
IMAGE_SIDE = 122  # noise of this size is 45 KB as PNG, 61 KB as base64
WORDS = [
    "please",
    "describe",
    "what",
    "the",
    "picture",
    "shows",
    "and",
    "how",
    "one",
    "would",
    "go",
    "on",
    "from",
    "here",
    "without",
    "leaving",
    "anything",
    "out",
]


def lengths(dialogues: int, turns: int | None) -> list[int]:
    """Turns per dialogue: ten each, or 2 to 10 with the given sum."""
    if turns is None:
        return [10] * dialogues
    rng = random.Random(0)
    found = [rng.choice((2, 4, 6, 8, 9, 10, 10, 10)) for _ in range(dialogues)]
    while sum(found) != turns:
        at = rng.randrange(dialogues)
        step = 1 if sum(found) < turns else -1
        if 2 <= found[at] + step <= 10:
            found[at] += step
    return found


def said(dialogue: int, turn: int) -> str:
    return " ".join(WORDS[(dialogue + turn * 3 + i) % len(WORDS)] for i in range(30)) + f" ({dialogue}/{turn})"


def pictures(count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        buffer = io.BytesIO()
        noise = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
        yield buffer.getvalue()


def scripts(counts: Sequence[int], images: ImageStore, distinct: int) -> list[Script]:
    refs: list[ImageRef] = [images.put(data) for data in pictures(distinct)]
    return [
        Script(
            id=f"d{number:05}",
            seed_id=f"d{number:05}",
            kind=ScriptKind.RED_TEAM,
            category="benchmark",
            images=(refs[number % distinct],),
            turns=tuple(UserTurn(text=said(number, turn)) for turn in range(count)),
        )
        for number, count in enumerate(counts)
    ]


class Stopwatch(Silent):
    """Times the loop itself: what lies between opening and closing the stage."""

    wall = cpu = 0.0

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[None]:
        began, used = time.perf_counter(), time.process_time()
        yield
        self.wall, self.cpu = time.perf_counter() - began, time.process_time() - used


async def ours(url: str, capacity: int, counts: Sequence[int], *, encoded: bool, distinct: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        images = ImageStore(root / "images")
        chosen = scripts(counts, images, distinct)
        spec = f"openai:mock@{url}"
        recipe = recipe_from({"seats": {"judge": spec}, "endpoints": {url: {"concurrency": capacity}}})
        watch = Stopwatch()
        async with Seating(recipe, images) as seats:
            model, judge = seats.assistant(spec, Sampling(max_tokens=512)), seats.judge()
            seats.memory.open_ledger(root / "calls.jsonl")
            await seats.check()
            if encoded:
                for script in chosen:
                    await seats._fragments.get(script.images[0])
            room = seats.room(spec)
            assert room is not None
            evaluation = Evaluation(model, judge, ScriptUser(), chosen, "benchmark", "static", root, "mock")
            summary = await run_eval(evaluation, EvalConfig(), Session(room, watch, seats.spent))
        found = summary.overall.counts
        assert (found.turns, found.scored, found.failed) == (sum(counts), sum(counts), 0), found
        return {"wall": watch.wall, "cpu": watch.cpu}


async def peer(url: str, capacity: int, counts: Sequence[int]) -> dict[str, Any]:
    """What one would write in an afternoon, well: for speed only; a fault would end it."""
    data = list(pictures(len(counts)))
    slots = asyncio.Semaphore(capacity)
    grade = {"type": "object", "properties": {"rationale": {"type": "string"}, "safety": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "grade", "schema": grade}}
    began, used = time.perf_counter(), time.process_time()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    verdicts: list[dict[str, Any]] = []

    async def ask(messages: list[dict[str, Any]], **more: Any) -> str:
        body = orjson.dumps({"model": "mock", "messages": messages, "max_tokens": 512, **more})
        async with slots, session.post(f"{url}/chat/completions", data=body) as response:
            reply = orjson.loads(await response.read())
        return str(reply["choices"][0]["message"]["content"])

    async def judge(picture: dict[str, Any], history: str) -> None:
        parts = [picture, {"type": "text", "text": f"Grade the last answer.\n{history}"}]
        verdicts.append(orjson.loads(await ask([{"role": "user", "content": parts}], response_format=form)))

    async def play(number: int) -> None:
        text = (await asyncio.to_thread(base64.b64encode, data[number])).decode()
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
        messages: list[dict[str, Any]] = []
        async with asyncio.TaskGroup() as judging:
            for turn in range(counts[number]):
                user = said(number, turn)
                content: Any = [picture, {"type": "text", "text": user}] if turn == 0 else user
                messages.append({"role": "user", "content": content})
                messages.append({"role": "assistant", "content": await ask(messages)})
                shown = "\n".join(m["content"] if isinstance(m["content"], str) else user for m in messages)
                judging.create_task(judge(picture, shown))

    async with session:
        await asyncio.gather(*(play(number) for number in range(len(counts))))
    assert len(verdicts) == sum(counts)
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - used}


def work(options: argparse.Namespace) -> None:
    """One client in this process; its figures as JSON on standard output."""
    counts = lengths(options.dialogues, options.turns)
    if options.worker == "peer":
        found = asyncio.run(peer(options.url, options.capacity_of_worker, counts))
    else:
        encoded, distinct = options.worker == "encoded", min(options.dialogues, 300)
        found = asyncio.run(ours(options.url, options.capacity_of_worker, counts, encoded=encoded, distinct=distinct))
    found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(found))


@contextmanager
def mock(options: argparse.Namespace, capacity: int, latency: float) -> Iterator[str]:
    """The mock server in a process of its own; yields its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options.mock_python, str(options.mock), "--port", str(port)]
    command += ["--capacity", str(capacity), "--latency", f"fixed:{latency}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit(f"the mock server ended with {process.returncode}: is its library there? (--mock-python)")
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def client(options: argparse.Namespace, name: str, capacity: int, latency: float, dialogues: int, turns: int) -> Any:
    with mock(options, capacity, latency) as url:
        command = [sys.executable, __file__, "--worker", name, "--url", url, "--capacity-of-worker", str(capacity)]
        command += ["--dialogues", str(dialogues), *(["--turns", str(turns)] if turns else [])]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = Path(__file__).with_name("mock_server.py")
    parser.add_argument("--mock", type=Path, default=own, help="another mock server's script")
    parser.add_argument("--mock-python", default=sys.executable, help="the interpreter to run it with")
    parser.add_argument("--capacity", default="64,256")
    parser.add_argument("--clients", default="peer,ours,encoded")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--dialogues", type=int, default=300)
    parser.add_argument("--turns", type=int)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--capacity-of-worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    if not options.mock.exists():
        sys.exit(f"there is no mock server at {options.mock}")
    if options.memory:
        found = client(options, "ours", 256, 0.0, 3227, 0)
        print(f"3,227 dialogues x 10 turns: peak {found['rss']} MB, {found['cpu'] / 64540 * 1e3:.2f} ms/request")
        return
    turns = 2416 if options.turns is None else options.turns
    counts = lengths(options.dialogues, turns)
    print(
        "| client | capacity | wall | share of the ideal | CPU per request | peak memory |\n|---|---|---|---|---|---|"
    )
    for capacity in map(int, options.capacity.split(",")):
        ideal = max(2 * turns * SERVICE / capacity, (max(counts) + 1) * SERVICE)
        print(f"| ideal | {capacity} | {ideal:.2f} s | 100 % | | |", flush=True)
        for name in options.clients.split(","):
            runs = [client(options, name, capacity, SERVICE, options.dialogues, turns) for _ in range(options.repeat)]
            wall = statistics.median(run["wall"] for run in runs)
            cpu = statistics.median(run["cpu"] for run in runs) / (2 * turns) * 1e3
            rss = max(run["rss"] for run in runs)
            row = f"| {name} | {capacity} | {wall:.2f} s | {ideal / wall:.1%} | {cpu:.2f} ms | {rss} MB |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
