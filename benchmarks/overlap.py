"""How well writing answers overlaps with a tutor's thinking, for an engine whose passes take a known time.

The decoding engine, cache, batcher, dialogues and tutor seat are the real ones; the student is tiny, and every forward
pass sleeps `--base` seconds and `--per-token` more for every new token in it (by default four times what a pass of the
embedded student takes on a quiet core, so that a busy machine blurs little). Compared in wall time with the two parts
alone, and with a turn-synchronous loop of the same engine.

    python benchmarks/overlap.py [--scripts 8] [--samples 4] [--slots 16] [--turns 8] [--tokens 8] [--tutor 0.5]

`--slots` dialogues are written side by side, so that others can write while some wait for their tutor. The tutor's
latency is uniform in 0.5…1.5 of a mean that is `--tutor` of the time that a turn of all dialogues takes to write.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rollout import Instant, InStep, SleepingTutor, scripts_of

from safer_steer.actors.assistant import ChatAssistant
from safer_steer.actors.chat import Sampling
from safer_steer.actors.followup import FollowUp
from safer_steer.actors.local import LocalModel
from safer_steer.config import GrpoConfig
from safer_steer.converse import converse
from safer_steer.image_store import ImageStore
from safer_steer.seats import Assistant, Cast
from safer_steer.train.playing import play_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_vlm import tiny_processor, tiny_student


def slowed(model: torch.nn.Module, base: float, per_token: float) -> None:
    """Let every forward pass take its time."""
    forward = model.forward

    def slept(input_ids: torch.Tensor, **more: Any) -> Any:
        due = time.perf_counter() + base + per_token * input_ids.numel()
        output = forward(input_ids=input_ids, **more)
        time.sleep(max(0.0, due - time.perf_counter()))
        return output

    model.forward = slept  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("scripts", 8), ("samples", 4), ("slots", 16), ("turns", 8), ("tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("tutor", 0.5), ("base", 0.08), ("per-token", 0.0072)):
        parser.add_argument(f"--{name}", type=float, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dialogues = options.scripts * options.samples
    config = GrpoConfig(samples=options.samples, max_tokens=options.tokens, retries=0)
    student = tiny_student()
    slowed(student, options.base, options.per_token)
    with tempfile.TemporaryDirectory() as folder:
        store, data = ImageStore(Path(folder)), io.BytesIO()
        Image.radial_gradient("L").convert("RGB").save(data, "PNG")
        scripts = scripts_of(options, store.put(data.getvalue()))

        def step(number: int, assistant: Callable[[Assistant], Assistant], mean: float) -> float:
            model = LocalModel(student, tiny_processor(), name="student", images=store, max_batch=options.slots)
            model._engine._banned = torch.cat([model._engine._banned, torch.tensor([model.tokens.end])])
            seat = assistant(ChatAssistant(model, Sampling(temperature=1.0, max_tokens=options.tokens)))
            cast = Cast(FollowUp(), seat, SleepingTutor(mean))

            async def work() -> None:
                if isinstance(seat, Instant):
                    jobs = [(script, k) for script in scripts for k in range(options.samples)]
                    await asyncio.gather(*(converse(script, cast, sample=k) for script, k in jobs))
                else:
                    played = await play_step(scripts, cast, config, number, dialogues)
                    assert sum(len(rollout.turns) for rollout in played.rollouts) == dialogues * options.turns
                await model.aclose()

            began = time.perf_counter()
            asyncio.run(work())
            return time.perf_counter() - began

        generation = step(1, lambda inner: inner, 0.0)
        mean = options.tutor * generation / options.turns
        tutor = step(2, lambda inner: Instant(), mean)
        bound, both = max(generation, tutor), generation + tutor
        print(f"{dialogues} dialogues of {options.turns} turns, {options.slots} side by side, a tutor of {mean:.2f} s")
        print(f"generation alone {generation:.1f} s, tutor alone {tutor:.1f} s, sum {both:.1f} s", flush=True)
        for label, assistant in (
            ("ours", lambda inner: inner),
            ("turn by turn", lambda inner: InStep(inner, dialogues)),
        ):
            wall = step(3, assistant, mean)
            print(f"{label:14} {wall:6.1f} s: {wall / bound:.2f} of max, {wall / both:.2f} of the sum", flush=True)


if __name__ == "__main__":
    main()
