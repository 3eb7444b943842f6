"""Stage I against a server with a fixed service time: wall against the ideal bound, CPU for each request.

    python benchmarks/construct.py [--seeds 60] [--capacity 64] [--mock PATH --python PYTHON]

The server is `mock_server.py`, with at most `capacity` requests in service, that answers a request with a JSON schema
by an instance of it; any such server will do. The ideal bound is what no schedule can beat: all service time divided
by the capacity, or the longest chain of calls that wait for each other.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from safer_steer.actors.specs import Seating
from safer_steer.config import recipe_from
from safer_steer.construct.stage import construct
from safer_steer.dialogue import Rollout, Seed, SeedKind, Split
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records

LATENCY = 0.2


def seeds_in(run: RunFolder, count: int) -> list[Seed]:
    """Harmful seeds with a picture of about 46 KB each (61 KB in base64)."""
    made = []
    for number in range(count):
        lot = np.random.default_rng(number)
        buffer = io.BytesIO()
        Image.fromarray(lot.integers(0, 256, (120, 127, 3), dtype=np.uint8)).save(buffer, format="PNG")
        ref = run.images.put(buffer.getvalue(), name=f"p{number}")
        question = f"What about {' '.join(f'word{lot.integers(5000)}' for _ in range(8))}?"
        made.append(
            Seed(
                id=f"s{number}",
                kind=SeedKind.HARMFUL,
                category=f"c{number % 6}",
                question=question,
                images=(ref,),
                split=Split.TRAIN,
            )
        )
    return made


async def build(run: RunFolder, url: str, capacity: int, seeds: list[Seed]) -> tuple[float, float]:
    """Wall and CPU seconds of the whole stage."""
    seats = {seat: f"openai:{seat}@{url}" for seat in ("generator", "target", "attack_judge")}
    limits = {"default": {"concurrency": capacity}}
    recipe = recipe_from({"seats": seats, "endpoints": limits, "construction": {"perturb_share": 0.0}})
    async with Seating(recipe, run.images, environ={}) as people:
        parts = {
            "generator": people.generator(),
            "target": people.target(),
            "attack_judge": people.attack_judge(),
        }
        wall, cpu = time.perf_counter(), time.process_time()
        await construct(recipe, run, seeds=seeds, report=Silent(), **parts)
        return time.perf_counter() - wall, time.process_time() - cpu


def longest_chain(folder: Path) -> int:
    """The most calls one after the other: analysis, goal and plan, then answer and judgement of every turn played."""
    return max(3 + 2 * len(rollout.turns) for rollout in read_records(folder / "attacks.jsonl", Rollout))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = Path(__file__).with_name("mock_server.py")
    options.add_argument("--mock", type=Path, default=own, help="another mock server's script")
    options.add_argument("--python", default=sys.executable, help="the interpreter that runs it")
    options.add_argument("--seeds", type=int, default=60)
    options.add_argument("--capacity", type=int, default=64)
    chosen = options.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = [chosen.python, str(chosen.mock), "--port", str(port), "--capacity", str(chosen.capacity)]
    process = subprocess.Popen([*server, "--latency", f"fixed:{LATENCY}"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with tempfile.TemporaryDirectory() as root:
            run = RunFolder(Path(root))
            seeds = seeds_in(run, chosen.seeds)
            wall, cpu = asyncio.run(build(run, f"http://127.0.0.1:{port}/v1", chosen.capacity, seeds))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as reply:
                told = json.load(reply)
            chain = longest_chain(run.root / "construct") * LATENCY
            counts = json.loads((run.root / "construct" / "stage.json").read_text())
    finally:
        process.terminate()
        process.wait()
    requests = told["counts"]["requests"]
    ideal = max(told["service_s_total"] / chosen.capacity, chain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{chosen.seeds} seeds, {requests} requests, {counts['attacks']['played']} attacks, capacity {chosen.capacity}"
    )
    print(f"wall {wall:.1f} s, ideal {ideal:.1f} s: {wall / ideal:.2f} of it; longest chain {chain:.1f} s")
    print(f"server busy for {told['span_s']:.1f} s, {told['mean_in_service']} requests in service on average")
    print(f"CPU {1000 * cpu / requests:.2f} ms per request; server {told['server_cpu_s']:.1f} CPU s; peak {peak} MB")


if __name__ == "__main__":
    main()
