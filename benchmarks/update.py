"""What a GRPO update costs on the embedded student: CPU-seconds and peak memory, by where the adapters sit.

    python benchmarks/update.py [--threads 1] [--micro-batch 2]

Sixteen dialogues of three turns with a picture each, about 200 tokens long, 25 per answer. CPU-seconds are the
process's own, so that a busy machine changes them little; on a quiet one, wall time is about that over the threads.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import tempfile
import time
from pathlib import Path

import torch

from safer_steer.actors.local import LocalModel
from safer_steer.config import GrpoConfig, LoraConfig
from safer_steer.dialogue import ImageRef
from safer_steer.embedded.build import ensure_student
from safer_steer.seeds import load_builtin, materialise_images
from safer_steer.store import ImageStore
from safer_steer.train.policy import Policy
from safer_steer.train.trajectory import Group, Trajectory
from safer_steer.train.update import Updater

PLACES = {"every layer": (r".*_proj",), "upper half": (r"layers\.(1[5-9]|2\d)\..*_proj",)}
USER, ANSWER, TURNS, DIALOGUES = 30, 25, 3, 16


def trajectories(images: list[ImageRef], opening: tuple[tuple[int, ...], ...]) -> tuple[Trajectory, ...]:
    """Random words in the shape of real dialogues."""
    rng, made = random.Random(0), []
    for ref, places in zip(images, opening, strict=True):
        ids, spans = list(places), []
        for _ in range(TURNS):
            ids += rng.choices(range(1000, 40000), k=USER)
            spans.append((len(ids), len(ids) + ANSWER))
            ids += rng.choices(range(1000, 40000), k=ANSWER)
        mask = tuple(any(start <= place < stop for start, stop in spans) for place in range(len(ids)))
        made.append(
            Trajectory(
                ids=tuple(ids),
                mask=mask,
                logprobs=tuple(-8.0 * mine for mine in mask),
                spans=tuple(spans),
                rewards=(0.5,) * TURNS,
                advantages=(rng.uniform(-1, 1),) * TURNS,
                images=(ref,),
            )
        )
    return tuple(made)


def measure(name: str, folder: Path, store: ImageStore, images: list[ImageRef], micro_batch: int) -> None:
    lora = LoraConfig(targets=PLACES[name])
    policy = Policy.load(folder, GrpoConfig(lora=lora))
    student = LocalModel(policy.model, policy.processor, name="student", images=store)
    assert student.tokens.images is not None
    opening = tuple(student.tokens.images.read(ref).ids for ref in images)
    group = Group("s", trajectories(images, opening), ((0.0,),) * len(images))
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=1e-5)
    config = GrpoConfig(micro_batch=micro_batch)
    update = Updater(policy, optimizer, student.tokens, student.banned, config)
    update([group])
    wall, cpu = time.monotonic(), time.process_time()
    done = update([group])
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    read = sum(len(item.ids) for item in group.trajectories)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:12} {read} tokens, {done.tokens} trained: {cpu:5.1f} CPU-s, {wall:5.1f} s wall, "
        f"{read / cpu:4.0f} tokens per CPU-s, peak {peak:.1f} GiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = ensure_student(notify=print)
    with tempfile.TemporaryDirectory() as root:
        store = ImageStore(Path(root))
        materialise_images(store)
        images = [seed.images[0] for seed in load_builtin() if seed.images][:DIALOGUES]
        for name in reversed(PLACES):  # the lighter one first: the peak only grows
            measure(name, folder, store, images, options.micro_batch)
            gc.collect()


if __name__ == "__main__":
    main()
