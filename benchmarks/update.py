"""What a GRPO update costs on the embedded student: CPU-seconds and peak memory, by where the adapters sit; and what
TRL's costs on the same batch, model and layers.

    python benchmarks/update.py [--threads 1] [--micro-batch 2] [--dialogues 16] [--peer]

With `--peer`, adapters on every layer, ours and TRL's run one after the other, each in a process of its own.

The dialogues have three turns with a picture each and about 200 tokens, 25 per answer. CPU-seconds are the
process's own, so that a busy machine changes them little; on a quiet one, wall time is about that over the threads.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from safer_steer.actors.local import LocalModel
from safer_steer.config import GrpoConfig, LoraConfig
from safer_steer.dialogue import ImageRef
from safer_steer.embedded.build import ensure_student
from safer_steer.image_store import ImageStore
from safer_steer.seeds import load_builtin, materialise_images
from safer_steer.train.policy import Policy
from safer_steer.train.trajectory import Group, Trajectory
from safer_steer.train.update import Updater

PLACES = {"every layer": (r".*_proj",), "upper half": (r"layers\.(1[5-9]|2\d)\..*_proj",)}
USER, ANSWER, TURNS = 30, 25, 3


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
    timed(f"ours, {name}", sum(len(item.ids) for item in group.trajectories), lambda: update([group]))


def measure_trl(folder: Path, store: ImageStore, images: list[ImageRef], micro_batch: int) -> None:
    """TRL's reference pass, loss and gradients over the same micro-batches, and the same optimiser step."""
    from trl_peer import trl_inputs, trl_logprobs, trl_trainer

    config = GrpoConfig(micro_batch=micro_batch, lora=LoraConfig(targets=PLACES["every layer"]))
    policy = Policy.load(folder, config)
    reader = LocalModel(policy.model, policy.processor, name="student", images=store).tokens.images
    assert reader is not None
    items = trajectories(images, tuple(reader.read(ref).ids for ref in images))
    trainer = trl_trainer(policy.model, policy.processor, config, store.root / "trl", checkpointing=False)
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=1e-5)
    parts = []
    for start in range(0, len(items), micro_batch):
        part = items[start : start + micro_batch]
        parts.append(trl_inputs(part, reader.tensors([item.images[0] for item in part]), 0))
    tokens = sum(int(part["tool_mask"].sum()) for part in parts)

    def update() -> None:
        for part in parts:
            with policy.reference():
                part["ref_per_token_logps"] = trl_logprobs(trainer, policy.model, part)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            part["num_items_in_batch"] = torch.tensor(tokens)
            trainer._compute_loss(policy.model, part).backward()
        torch.nn.utils.clip_grad_norm_(policy.trainable.values(), 1.0)
        optimizer.step()

    timed("TRL, every layer", sum(len(item.ids) for item in items), update)


def timed(label: str, read: int, update: Callable[[], object]) -> None:
    """The second of two updates, and the process's peak memory."""
    update()
    wall, cpu = time.monotonic(), time.process_time()
    update()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    speed = f"{cpu:5.1f} CPU-s, {wall:5.1f} s wall, {read / cpu:4.0f} tokens per CPU-s, peak {peak:.1f} GiB"
    print(f"{label:18} {read} tokens: {speed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--dialogues", type=int, default=16)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--only", choices=["trl", *PLACES], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = ensure_student(notify=print)
    if options.only is None:
        for name in ("every layer", "trl") if options.peer else reversed(PLACES):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], check=True)
        return
    with tempfile.TemporaryDirectory() as root:
        store = ImageStore(Path(root))
        materialise_images(store)
        images = [seed.images[0] for seed in load_builtin() if seed.images][: options.dialogues]
        if options.only == "trl":
            measure_trl(folder, store, images, options.micro_batch)
        else:
            measure(options.only, folder, store, images, options.micro_batch)


if __name__ == "__main__":
    main()
