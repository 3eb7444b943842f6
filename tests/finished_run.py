"""A run whose Stages I and II are done, small and written by hand: what the exports and the statistics read."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from people import STAMP, answer
from safer_steer.dialogue import ImageRef, Rollout, Script, ScriptKind, Split, StopReason, Turn, UserTurn
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_records
from safer_steer.verdict import Scored

SAFETY = (10.0, 8.0)


def picture(run: RunFolder, number: int, name: str | None = None) -> ImageRef:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24 + number)).convert("RGB").save(buffer, format="PNG")
    return run.images.put(buffer.getvalue(), name=name)


def one(
    id: str, kind: ScriptKind, split: Split, images: tuple[ImageRef, ...], turns: int = 2, strategy: str | None = None
) -> Script:
    return Script(
        id=id,
        seed_id=f"seed-{id}",
        kind=kind,
        category="fraud" if kind is not ScriptKind.BENIGN else "maths",
        images=images,
        turns=tuple(UserTurn(text=f"{id} asks {n}", risk=min(n, 5)) for n in range(1, turns + 1)),
        split=split,
        strategy=strategy,
    )


def played(script: Script) -> Rollout:
    turns = tuple(
        Turn(
            index=number,
            user=turn.text if number > 1 else f"{turn.text} <image>",
            answer=answer(f"answer {number}"),
            verdict=Scored(scores={"safety": SAFETY[number - 1]}, rationale="r", stamp=STAMP),
        )
        for number, turn in enumerate(script.turns, 1)
    )
    return Rollout(script=script, turns=turns, stop=StopReason.COMPLETED)


def finished_run(root: Path) -> RunFolder:
    """Two SFT dialogues (one with an image, one with none), three RL scripts, no validation, two of the benchmark."""
    run = RunFolder(root)
    a, b, c = picture(run, 1), picture(run, 2, "b+noise"), picture(run, 3)
    red, benign, hidden = ScriptKind.RED_TEAM, ScriptKind.BENIGN, ScriptKind.OBFUSCATED
    folder = run.stage("bootstrap")
    write_records(
        folder / "kept.jsonl",
        [played(one("s1", red, Split.TRAIN, (a,), strategy="roleplay")), played(one("s2", benign, Split.TRAIN, ()))],
    )
    later = one("r3", hidden, Split.TRAIN, (c,), 3)
    brings = (later.turns[0], later.turns[1].model_copy(update={"images": (a,)}), later.turns[2])
    scripts = [
        one("r1", red, Split.TRAIN, (b,), 3, "roleplay"),
        one("r2", benign, Split.TRAIN, (a, c), 4),
        later.model_copy(update={"turns": brings}),
    ]
    write_records(folder / "rl.jsonl", scripts)
    write_records(folder / "val.jsonl", [])
    bench = [one("b1", red, Split.TEST, (b,), 10, "fiction_writer"), one("b2", benign, Split.TEST, (c,), 5)]
    write_records(folder / "bench.jsonl", [script.model_copy(update={"split": Split.TEST}) for script in bench])
    by_strategy = {"roleplay": {"played": 4, "succeeded": 2}, "fiction_writer": {"played": 4, "succeeded": 1}}
    run.finish("construct", {"attacks": {"by_strategy": by_strategy}, "left_out": {"no_leak": 5}})
    run.finish("bootstrap", {"played": 3, "kept": 2, "dropped": {"unsafe": 1}, "contamination": 0})
    return run
