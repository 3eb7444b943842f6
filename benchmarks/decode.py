"""How fast the local model writes: 32 dialogues of 5 turns side by side, against generate() reading each turn anew.

    python benchmarks/decode.py [--dialogues 32] [--turns 5] [--tokens 48] [--batches 8,16,32,64] [--baseline]

Times are CPU-seconds (sound on a busy machine) and wall seconds. Every dialogue has an image, and its user turns are
about 20 tokens long.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.local import LocalModel
from safer_steer.actors.local.linear import OneDnnLinear
from safer_steer.embedded.build import ensure_student, load_student
from safer_steer.image_store import ImageStore

TURNS = (
    "Please have a look at this picture and tell me in a few words what you see on it.",
    "That is interesting. Can you tell me a little more about the part in the middle of it?",
    "And why do you think that it looks the way it does? Give me two reasons, please.",
    "I am not quite sure that I follow you there. Could you explain the first one again?",
    "Thank you. To finish, sum up everything that you have told me so far in one sentence.",
)


@contextmanager
def measured(label: str, tokens: list[int]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = sum(tokens)
    speed = f"{wall:7.1f} s wall  {cpu:7.1f} CPU-s  {total / cpu:6.1f} tokens/CPU-s"
    print(f"{label:44} {total:6d} tokens  {speed}", flush=True)


async def play(model: LocalModel, image: Message, number: int, turns: int, tokens: int, written: list[int]) -> None:
    messages: list[Message] = []
    for turn in range(turns):
        images = image.images if turn == 0 else ()
        messages.append(Message(role=Role.USER, text=TURNS[turn % len(TURNS)], images=images))
        sampling = Sampling(temperature=1.0, max_tokens=tokens, seed=number * 100 + turn)
        completion = await model.complete(messages, sampling)
        messages.append(Message(role=Role.ASSISTANT, text=completion.text, trace=completion.trace))
        written.append(completion.usage.completion_tokens or 0)


def engine(model: LocalModel, image: Message, dialogues: int, turns: int, tokens: int, label: str) -> None:
    async def everybody() -> None:
        await asyncio.gather(*(play(model, image, n, turns, tokens, written) for n in range(dialogues)))

    written: list[int] = []
    with measured(label, written):
        asyncio.run(everybody())


@torch.inference_mode()
def baseline(model: LocalModel, picture: Image.Image, processor: Any, dialogues: int, turns: int, tokens: int) -> None:
    """transformers' own generate(), turn by turn in one batch, reading the whole dialogue every time."""
    chats: list[list[dict[str, object]]] = [[] for _ in range(dialogues)]
    written: list[int] = []
    fast = any(isinstance(module, OneDnnLinear) for module in model.model.modules())
    with measured(f"generate(), all read anew, {'oneDNN' if fast else 'plain torch'}", written):
        for turn in range(turns):
            for chat in chats:
                blocks = [{"type": "image"}] if turn == 0 else []
                chat.append({"role": "user", "content": [*blocks, {"type": "text", "text": TURNS[turn % len(TURNS)]}]})
            texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
            batch = processor(images=[picture] * dialogues, text=texts, return_tensors="pt", padding=True)
            output = model.model.generate(**batch, max_new_tokens=tokens, do_sample=True)
            for chat, ids in zip(chats, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                stop = ids.index(model.tokens.end) + 1 if model.tokens.end in ids else len(ids)
                written.append(stop)
                chat.append({"role": "assistant", "content": model.tokens.decode(ids[:stop])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batches", default="32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--student", type=Path, default=None, help="a student's folder (default: the embedded one)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights, processor = load_student(options.student or ensure_student(notify=print))
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(Path(folder))
        picture, data = Image.radial_gradient("L").convert("RGB"), io.BytesIO()
        picture.save(data, "PNG")
        image = Message(role=Role.USER, text="x", images=(store.put(data.getvalue()),))
        sizes = (options.dialogues, options.turns, options.tokens)
        for batch in map(int, options.batches.split(",")):
            model = LocalModel(weights, processor, name="student", images=store, max_batch=batch)
            engine(model, image, *sizes, f"local model, at most {batch} side by side")
            asyncio.run(model.aclose())
        if options.baseline:
            baseline(model, picture, processor, *sizes)
            for module in weights.modules():
                if isinstance(module, OneDnnLinear):
                    module.__class__ = nn.Linear
            baseline(model, picture, processor, *sizes)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
