"""Rollouts against a tutor that takes its time, side by side in one run on the embedded student:

- a `rollout_func` as TRL documents it: transformers' `generate` on the whole batch, every turn reads text and image of
  every dialogue anew, then all tutors are asked at once;
- turn by turn with our engine: all answers of a turn, then all tutors at once;
- ours: every dialogue goes on as soon as its own tutor has spoken, while others write.

    python benchmarks/rollout.py [--scripts 8] [--samples 4] [--turns 8] [--tokens 16] [--peer-dialogues 16]

Every dialogue has an image with its first turn, user turns of about 20 tokens and answers of exactly `--tokens`. The
tutor sleeps; its latency is uniform in 0.5…1.5 of a mean that is `--tutor` of the time a turn's answers take to write
(measured first; `--tutor 0`: no tutor at all). Rollouts are counted per CPU-second, which is sound on a busy machine;
the overlap is told in wall time, which needs a quiet one, against max(generation, tutor) and against their sum.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from safer_steer.actors.assistant import ChatAssistant
from safer_steer.actors.chat import Sampling
from safer_steer.actors.followup import FollowUp
from safer_steer.actors.local import LocalModel
from safer_steer.actors.local.linear import OneDnnLinear
from safer_steer.config import GrpoConfig
from safer_steer.converse import converse
from safer_steer.dialogue import Answer, AnswerState, FinishReason, History, ImageRef, Script, ScriptKind, UserTurn
from safer_steer.embedded.build import ensure_student, load_student
from safer_steer.image_store import ImageStore
from safer_steer.seats import Assistant, Cast
from safer_steer.train.playing import play_step
from safer_steer.verdict import Proposal, Scored, Stamp

ASK = "Please have another look at this picture and tell me in a few words what you see in part {} of it."


STAMP = Stamp(judge="sleep", prompt="none", version="1")


@dataclass
class SleepingTutor:
    """Scores by nothing, proposes the next question, and takes `mean` seconds (0.5…1.5 of it) over it."""

    mean: float
    stamp: Stamp = STAMP

    def latency(self, dialogue: str, turn: int) -> float:
        return self.mean * random.Random(f"{dialogue} {turn}").uniform(0.5, 1.5)

    async def assess(self, history: History, answer: str) -> Scored:
        await asyncio.sleep(self.latency(f"{history.script.id}#{history.sample}", history.index))
        scores = dict.fromkeys(("safety", "usefulness", "faithfulness"), float(1 + len(answer) % 10))
        proposal = Proposal(user=ASK.format(history.index + 1), attack="persistence")
        return Scored(scores=scores, rationale="none", stamp=self.stamp, proposal=proposal)


class Instant:
    """An assistant that says the same at once: what the tutor takes alone."""

    name = "instant"

    async def answer(self, history: History) -> Answer:
        return Answer(text="a", raw="a", state=AnswerState.OK, finish=FinishReason.STOP)


class InStep:
    """Holds every answer back until all dialogues have theirs: a turn-synchronous loop of the same engine."""

    name = "in step"

    def __init__(self, inner: Assistant, dialogues: int) -> None:
        self._inner, self._all = inner, asyncio.Barrier(dialogues)

    async def answer(self, history: History) -> Answer:
        async with self._all:
            pass
        said = await self._inner.answer(history)
        async with self._all:
            pass
        return said


def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(work())  # type: ignore[arg-type]
    return time.perf_counter() - wall, time.process_time() - cpu


def tell(label: str, dialogues: int, wall: float, cpu: float) -> None:
    print(
        f"{label:46} {dialogues:3d} rollouts {wall:7.1f} s {cpu:7.1f} CPU-s {dialogues / cpu:6.3f} per CPU-s",
        flush=True,
    )


@torch.inference_mode()
def rollout_func(
    model: LocalModel, processor: Any, picture: Image.Image, dialogues: int, turns: int, tokens: int
) -> None:
    """The peer's generation (its tutors are asked between turns, all at once, which costs it no CPU)."""
    chats: list[list[dict[str, object]]] = [[] for _ in range(dialogues)]
    for turn in range(turns):
        for chat in chats:
            blocks = [{"type": "image"}] if turn == 0 else []
            chat.append({"role": "user", "content": [*blocks, {"type": "text", "text": ASK.format(turn + 1)}]})
        texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        batch = processor(images=[picture] * dialogues, text=texts, return_tensors="pt", padding=True)
        output = model.model.generate(
            **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        for chat, ids in zip(chats, output.sequences[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            chat.append({"role": "assistant", "content": model.tokens.decode(ids)})


def scripts_of(options: argparse.Namespace, ref: ImageRef) -> list[Script]:
    turns = tuple(UserTurn(text=ASK.format(turn + 1)) for turn in range(options.turns))
    return [
        Script(id=f"s{n}", seed_id=f"{n}", kind=ScriptKind.RED_TEAM, category="none", images=(ref,), turns=turns)
        for n in range(options.scripts)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--peer-dialogues", type=int, default=16)
    parser.add_argument("--tutor", type=float, default=0.5)
    parser.add_argument("--plain", action="store_true", help="the peer has torch's own linear layers, as TRL does")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights, processor = load_student(ensure_student(notify=print))
    dialogues = options.scripts * options.samples
    config = GrpoConfig(samples=options.samples, max_tokens=options.tokens, retries=0)
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(Path(folder))
        picture, data = Image.radial_gradient("L").convert("RGB"), io.BytesIO()
        picture.save(data, "PNG")
        scripts = scripts_of(options, store.put(data.getvalue()))
        model = LocalModel(weights, processor, name="student", images=store, max_batch=dialogues)
        ends = torch.tensor([model.tokens.end])  # answers of full length, for equal work
        model._engine._banned = torch.cat([model._engine._banned, ends])
        student = ChatAssistant(model, Sampling(temperature=1.0, max_tokens=options.tokens))

        def step(number: int, assistant: Callable[[], Assistant], mean: float) -> tuple[float, float]:
            async def work() -> None:
                cast = Cast(FollowUp(), assistant(), SleepingTutor(mean))
                if isinstance(cast.assistant, Instant):
                    jobs = [(script, k) for script in scripts for k in range(options.samples)]
                    await asyncio.gather(*(converse(script, cast, sample=k) for script, k in jobs))
                else:
                    played = await play_step(scripts, cast, config, number, dialogues)
                    assert sum(len(rollout.turns) for rollout in played.rollouts) == dialogues * options.turns
                model._engine.forget()

            return timed(work)

        generation = step(1, lambda: student, 0.0)
        tell("ours, a tutor that answers at once", dialogues, *generation)
        if options.tutor > 0:
            mean = options.tutor * generation[0] / options.turns
            tutor, _ = step(2, Instant, mean)
            ours = step(3, lambda: student, mean)
            tell(f"ours, a tutor of {mean:.2f} s", dialogues, *ours)
            synchronous = step(4, lambda: InStep(student, dialogues), mean)
            tell("turn by turn, the same engine and tutor", dialogues, *synchronous)
            bound = max(generation[0], tutor)
            print(f"generation {generation[0]:.1f} s, tutor {tutor:.1f} s, sum {generation[0] + tutor:.1f} s")
            print(
                f"wall / max(generation, tutor): ours {ours[0] / bound:.2f}, turn by turn {synchronous[0] / bound:.2f}"
            )
        asyncio.run(model.aclose())
        if options.plain:
            for module in weights.modules():
                if isinstance(module, OneDnnLinear):
                    module.__class__ = torch.nn.Linear
        wall, cpu = time.perf_counter(), time.process_time()
        rollout_func(model, processor, picture, options.peer_dialogues, options.turns, options.tokens)
        peer = time.perf_counter() - wall, time.process_time() - cpu
        tell("generate(), every turn read anew, no tutor", options.peer_dialogues, *peer)
    ratio = dialogues / generation[1] / (options.peer_dialogues / peer[1])
    print(f"rollouts per CPU-second, ours / generate(): {ratio:.2f}")


if __name__ == "__main__":
    main()
