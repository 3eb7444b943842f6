"""Seeds of three sources, and an OpenAI-compatible server that misbehaves on purpose: for the runs at scale.

What the server says depends on what it is asked alone; which requests it spoils too. Faults of transport (429, 500, a
broken body, a reset connection) come once for each request, so that a client that asks again gets its answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web
from PIL import Image

TRANSPORT = ("429", "500", "half", "reset")
CONTENT = ("not json", "short", "blank", "refusal", "empty")


class Faulty:
    """The server. `fault` is the share of requests that meet a transport fault, `spoil` that of unusable replies."""

    def __init__(self, fault: float = 0.0, spoil: float = 0.0, delay: float = 0.0) -> None:
        self.fault, self.spoil, self.delay = fault, spoil, delay
        self.url = ""
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.now = self.most = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        key = zlib.crc32(raw)
        lot = random.Random(key)
        self.asked[key] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.now -= 1
        if lot.random() < self.fault and self.asked[key] == 1:
            return self._misbehave(lot.choice(TRANSPORT), request)
        body = json.loads(raw)
        text = self._text(body, lot)
        self.answered[key] += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": read_text(body) // 4, "completion_tokens": max(1, len(text) // 4)}
        return web.json_response({"choices": [choice], "usage": usage})

    def _misbehave(self, how: str, request: web.Request) -> web.StreamResponse:
        self.faults[how] += 1
        if how == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.01"})
        if how == "500":
            return web.json_response({"error": {"message": "oops"}}, status=500)
        if how == "half":
            return web.Response(body=b'{"choices": [{"mess', content_type="application/json")
        assert request.transport is not None
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        return web.Response()

    def _text(self, body: dict[str, Any], lot: random.Random) -> str:
        wanted = body.get("response_format")
        if wanted is None:
            return words(lot, 30)
        value = instance(wanted["json_schema"]["schema"], lot, wanted["json_schema"]["schema"])
        if lot.random() < self.spoil:
            how = lot.choice(CONTENT)
            self.faults[how] += 1
            return spoiled(how, value, lot)
        return json.dumps(value)


def read_text(body: dict[str, Any]) -> int:
    """The characters of a request's messages, without its images."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for one in contents for part in ([{"text": one}] if isinstance(one, str) else one)]
    return sum(len(part.get("text", "")) for part in parts)


def words(lot: random.Random, count: int) -> str:
    return " ".join(f"word{lot.randrange(5000)}" for _ in range(count))


def instance(schema: dict[str, Any], lot: random.Random, root: dict[str, Any]) -> Any:
    """A value that a JSON schema of ours allows."""
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], lot, root)
    if "properties" in schema:
        return {name: instance(inner, lot, root) for name, inner in schema["properties"].items()}
    match schema.get("type"):
        case "array":
            count = schema.get("minItems", 2)
            return [instance(schema["items"], lot, root) for _ in range(count)]
        case "integer":
            return lot.randint(schema.get("minimum", 1), schema.get("maximum", 5))
        case "boolean":
            return lot.random() < 0.5
        case _:
            return words(lot, 12)


def spoiled(how: str, value: Any, lot: random.Random) -> str:
    if how == "not json":
        return "Here is what you asked for: " + words(lot, 5)
    if how == "empty":
        return ""
    if how == "refusal":
        return "I'm sorry, but I can't help with that."
    cut = {name: inner[:-1] if isinstance(inner, list) else inner for name, inner in value.items()}
    if how == "short":
        return json.dumps(dict(list(cut.items())[:1])) if cut == value else json.dumps(cut)
    return json.dumps(blanked(value))


def blanked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: blanked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [blanked(inner) for inner in value]
    return " " if isinstance(value, str) else value


@contextmanager
def serving(server: Faulty) -> Iterator[Faulty]:
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def begin() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", server.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stopped.wait()
        await runner.cleanup()

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(begin(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
        loop.close()


def write_seeds(folder: Path, count: int, *, split: str, start: int = 0) -> Path:
    """A JSONL file of seeds with small pictures, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(start, start + count):
        lot = random.Random(number)
        picture = Image.new("RGB", (40, 32))
        picture.putdata([(lot.randrange(256), lot.randrange(256), lot.randrange(256)) for _ in range(40 * 32)])
        picture.save(folder / f"p{number}.png")
        kind = "benign" if number % 4 == 3 else "harmful"
        question = f"What about {words(lot, 6)}?"
        entry = {"id": f"{folder.name}-{number}", "question": question, "category": f"c{number % 5}", "kind": kind}
        lines.append(json.dumps({**entry, "image": f"p{number}.png", "split": split, "source": folder.name}))
    path = folder / "seeds.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(folder: Path, count: int, *, split: str, start: int = 0) -> Path:
    """The same as `write_seeds`, as one parquet file with the pictures inside."""
    rows = [json.loads(line) for line in write_seeds(folder, count, split=split, start=start).read_text().splitlines()]
    table = [{**row, "image": (folder / row["image"]).read_bytes()} for row in rows]
    path = folder / "seeds.parquet"
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def write_vlsbench(folder: Path, count: int, *, start: int = 0) -> Path:
    """The same in VLSBench's form; its seeds are for the test split."""
    rows = [json.loads(line) for line in write_seeds(folder, count, split="test", start=start).read_text().splitlines()]
    entries = [
        {
            "instruction_id": number,
            "instruction": row["question"],
            "image_path": row["image"],
            "category": row["category"],
            "sub_category": "s",
            "source": "made",
            "image_description": "noise",
            "safety_reason": "none",
        }
        for number, row in enumerate(rows)
    ]
    (folder / "imgs").mkdir()
    for row in rows:
        (folder / row["image"]).rename(folder / "imgs" / row["image"])
    (folder / "data.json").write_text(json.dumps(entries))
    return folder


def recipe_of(server: Faulty, root: Path, counts: tuple[int, int, int], **sections: Any) -> dict[str, Any]:
    """A recipe with every seat of Stages I and II behind the server, over three sources of seeds."""
    first, second, third = counts
    sources = [
        {"loader": "jsonl", "path": str(write_seeds(root / "one", first, split="train"))},
        {"loader": "parquet", "path": str(write_parquet(root / "two", second, split="train", start=1000))},
        {"loader": "vlsbench", "path": str(write_vlsbench(root / "three", third, start=2000)), "split": "test"},
    ]
    seats = ("target", "generator", "attack_judge", "red", "blue", "reward_judge")
    values: dict[str, Any] = {
        "name": "acceptance",
        "seats": {seat: f"openai:{seat}@{server.url}" for seat in seats},
        "endpoints": {"default": {"concurrency": 16, "retry": {"first_wait": 0.01, "budget": 100_000}}},
        "construction": {"seeds": sources, "strategies_per_seed": 1, "perturb_share": 0.3},
        "bootstrap": {
            "tau_safe": 2,
            "tau_help": 4.0,
            "sft": {"turns": {"low": 2, "high": 8, "mean": 4.0}},
            "rl": {"size": 20, "turns": {"low": 2, "high": 10}},
            "rl_history_risk": 0.1,
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values
