"""One token for every row: the fused pass over fp16 weights against transformers' pass over packed fp32 ones.

    python benchmarks/fused.py [--rows 1,5,16,24] [--threads 1,2] [--rounds 6]

The embedded student, contexts of about 110 tokens, sampled; the two engines take turns of five tokens each in one
run, so that whatever else the machine does meets both. Milliseconds a token of all rows, the best and the median turn.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import Future
from statistics import median

import torch

from safer_steer.actors import cores
from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.local import LocalModel
from safer_steer.actors.local.decode import Engine, Request
from safer_steer.actors.local.packed import PackedWeights
from safer_steer.embedded.build import ensure_student

QUESTION = (
    "Please tell me in a few words what you think about the part in the middle of it, and why it matters to you. "
)
TURN = 5


def admit(model: LocalModel, engine: Engine, rows: int, turns: int) -> None:
    """`rows` dialogues of their own, long enough for `turns` turns."""
    requests = []
    for number in range(rows):
        layout = model.tokens.lay_out([Message(role=Role.USER, text=f"Dialogue {number}. {QUESTION * 4}")])
        sampling = Sampling(temperature=0.8, max_tokens=TURN * (turns + 1), seed=number)
        requests.append(Request(layout, sampling, number, Future()))
    engine.admit(requests)


def measure(engines: dict[str, Engine], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of every turn, by engine."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            started = time.perf_counter()
            for _ in range(TURN):
                engine.step()
            found[name].append((time.perf_counter() - started) / TURN * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,5,16,24")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    folder = ensure_student(notify=print)
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        cores.CORES = threads
        for rows in map(int, options.rows.split(",")):
            models = {name: LocalModel.load(folder) for name in ("transformers", "fused")}
            plain = models["transformers"]._engine
            plain._packed = PackedWeights(plain._model)
            engines = {name: model._engine for name, model in models.items()}
            with plain.writing(), engines["fused"].writing():
                for name, engine in engines.items():
                    admit(models[name], engine, rows, options.rounds)
                times = measure(engines, options.rounds)
            told = "  ".join(
                f"{name} {min(found):.0f} (median {median(found):.0f}) ms" for name, found in times.items()
            )
            ratio = min(times["transformers"]) / min(times["fused"])
            print(f"{threads} threads, {rows:2d} rows: {told}  ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
