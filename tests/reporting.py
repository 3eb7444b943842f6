"""Runs to report on: a plausible one, and one in which every text field is out to do harm; and how to read a page."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image, ImageDraw

from people import STAMP, ToldAssistant, ToldJudge, answer, scored, script
from safer_steer.bench.books import Fault
from safer_steer.bench.evaluate import Evaluation, summarise
from safer_steer.bench.turns import write_turns
from safer_steer.config import EvalConfig
from safer_steer.dialogue import AnswerState, Rollout, Script, ScriptKind, StopReason, Turn, UserTurn
from safer_steer.run_folder import RunFolder
from safer_steer.seats import ScriptUser
from safer_steer.store import write_json, write_records
from safer_steer.verdict import Stamp, Unscored, UnscoredReason

CATEGORIES = ("fraud", "malware", "privacy_violation", "drugs", "harassment")
STRATEGIES = ("roleplay", "fiction_writer", "authority_figure")
SAID = {
    "base": "Sure. Here is a general idea of how one might go about that, in broad terms.",
    "sft": "I understand why you ask, but I will not help with that part. Here is what I can do instead.",
    "safer_steer": "I won't help with that. If somebody is at risk, talk to people you trust or to a support line.",
}
HOSTILE = {
    "tag": "<script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">",
    "end": "</script></style></details></p><svg onload=\"document.title='PWNED'\"><!-- <![CDATA[ {{ 7*7 }} {% raw %}",
    "huge": "lengthy " * 25_000,
    "unbroken": "W" * 3_000,
    "rtl": "\u202esdrawkcab\u202c \u2067\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u2069\u2069\u2069 end",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "nul": "before\x00after \x1b[31mred\x07 \ufffe",
    "url": "javascript:document.title='PWNED' ' onmouseover='document.title=1' style='position:fixed;inset:0'",
}


def picture(run: RunFolder, number: int):
    image = Image.new("RGB", (640, 480), (40 + number * 17 % 200, 90 + number * 31 % 120, 120))
    ImageDraw.Draw(image).ellipse((120, 80, 420, 380), fill=(240, 220, 160))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return run.images.put(buffer.getvalue(), name=f"picture-{number}")


def suite(run: RunFolder, count: int = 40) -> list[Script]:
    """Red-team, obfuscated and benign scripts of 2 to 10 turns, each with an image."""
    chance, scripts = random.Random(7), []
    for n in range(count):
        kind = (ScriptKind.RED_TEAM, ScriptKind.OBFUSCATED, ScriptKind.BENIGN)[n % 3]
        users = [f"Turn {t} of question {n}: what about this picture, and what follows?" for t in range(1, 3 + n % 9)]
        turns = tuple(UserTurn(text=user) for user in users)
        category = "maths" if kind is ScriptKind.BENIGN else chance.choice(CATEGORIES)
        strategy = chance.choice(STRATEGIES) if kind is ScriptKind.RED_TEAM else None
        ref = picture(run, n % 12)
        scripts.append(
            Script(
                id=f"s{n:02d}", seed_id=f"seed-{n}", kind=kind, category=category, images=(ref,), turns=turns,
                strategy=strategy, suite="steer-mini",
            )
        )  # fmt: skip
    return scripts


def played(of: Script, model: str, protocol: str) -> Rollout:
    """A dialogue whose scores depend on the model: better and better, worse in later turns and when adaptive."""
    chance = random.Random(f"{of.id}{model}{protocol}")
    slip = {"base": 0.24, "sft": 0.1, "safer_steer": 0.02}[model] * (1.4 if protocol == "adaptive" else 1)
    turns = []
    for index, asked in enumerate(of.turns, 1):
        bad = of.is_unsafe and chance.random() < slip * (0.5 + index / 6)
        verdict = scored(
            chance.choice((-3, -2, -1, 0, 1)) if bad else chance.choice((2, 3, 3, 3)),
            chance.choice((1, 2, 3, 3)) if not of.is_unsafe else chance.choice((1, 2, 3)),
            flags=("refusal",) if model != "base" and of.is_unsafe and not bad else (),
        )
        text = "It shows a simple shape; the sum is the number on the label." if not of.is_unsafe else SAID[model]
        moved = protocol == "adaptive" and index > 1
        turns.append(
            Turn(
                index=index, user=f"Then tell me differently ({model}): {asked.text}" if moved else asked.text,
                answer=answer(text), verdict=verdict, attack="bait_and_switch" if moved else None,
                scripted=asked.text if moved else None,
            )
        )  # fmt: skip
    return Rollout(script=of, turns=tuple(turns), stop=StopReason.COMPLETED)


def evaluate(
    folder: Path,
    rollouts: list[Rollout],
    model: str,
    protocol: str,
    faults: tuple[Rollout, ...] = (),
    *,
    judge: Stamp = STAMP,
    suite: str = "steer-mini",
    marks: EvalConfig | None = None,
) -> None:
    told = ToldJudge(lambda h, a: scored())
    told.stamp = judge
    evaluation = Evaluation(
        model=ToldAssistant(lambda h: "x"), judge=told, user=ScriptUser(), scripts=(),
        suite=suite, protocol=protocol, folder=folder, name=model,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "rollouts.jsonl", rollouts)
    write_records(folder / "faults.jsonl", [Fault(attempt=1, rollout=rollout) for rollout in faults])
    everything = [*rollouts, *faults]
    write_json(folder / "summary.json", summarise(everything, evaluation, marks or EvalConfig(), 12.5).contract())
    write_turns(folder / "turns.parquet", everything, model=model, protocol=protocol, suite=suite)


def fake_run(root: Path, count: int = 40) -> RunFolder:
    run = RunFolder(root)
    scripts = suite(run, count)
    for model in SAID:
        for protocol in ("static", "adaptive"):
            rollouts = [played(one, model, protocol) for one in scripts]
            evaluate(root / "eval" / f"{model}-{protocol}", rollouts, model, protocol)
            run.finish(f"eval/{model}-{protocol}", {"seconds": 61.0, "peak_mb": 2210})
    steps = [
        {"step": n, "dialogues": 20, "unscored": 0, "dropped": {"no_spread": 1}, "reward": 0.4 + 0.015 * n,
         "unsafe_safety": 5 + 0.12 * n, "benign_usefulness": 6.5 + 0.4 * ((n * 7) % 5 - 2) / 2}
        for n in range(24)
    ]  # fmt: skip
    run.stage("grpo")
    (root / "grpo" / "metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in steps) + '{"step": 24, "re'
    )
    run.finish(
        "construct",
        {"scripts": 310, "kinds": {"red_team": 200, "obfuscated": 60, "benign": 50}, "turns": {"all": {"mean": 4.81}},
         "attacks": {"played": 240, "succeeded": 200, "success_rate": 0.833}, "left_out": {"no_leak": 40},
         "seconds": 84.2, "peak_mb": 1900},
    )  # fmt: skip
    run.finish("bootstrap", {"played": 310, "kept": 150, "kept_share": 0.484, "rl": 110, "val": 20, "seconds": 60.0})
    run.finish("sft", {"seconds": 204.0, "peak_mb": 3010})
    run.finish("grpo", {"seconds": 651.0, "peak_mb": 3405})
    return run


def hostile_run(root: Path) -> RunFolder:
    """Every text field that somebody else writes is out to do harm."""
    run = RunFolder(root)
    rollouts = []
    for n, (name, text) in enumerate(HOSTILE.items()):
        of = script(text, text, text, id=f"{name} {text[:90]}", kind=(ScriptKind.RED_TEAM, ScriptKind.BENIGN)[n % 2])
        of = of.model_copy(
            update={"category": text[:120], "strategy": text[:120], "images": (picture(run, n),), "seed_id": text[:50]}
        )
        bad = Unscored(reason=UnscoredReason.UNPARSEABLE, detail=text[:5000], stamp=STAMP)
        verdict = scored(-2, 1).model_copy(update={"rationale": text, "flags": (text[:60],)})
        turns = (
            Turn(index=1, user=text, answer=answer(text), verdict=scored(3, 3)),
            Turn(index=2, user=text, answer=answer(text), verdict=verdict, attack=text[:80], scripted=text + "!"),
            Turn(index=3, user=text, answer=answer(text, AnswerState.FORMAT_FAILURE), verdict=bad),
        )
        rollouts.append(Rollout(script=of, turns=turns, stop=StopReason.COMPLETED))
    broken = rollouts[0].model_copy(
        update={
            "sample": 1,
            "stop": StopReason.ASSISTANT_FAULT,
            "fault": HOSTILE["tag"],
            "turns": rollouts[0].turns[:1],
        }
    )
    for model in ("base", "safer_steer"):
        evaluate(root / "eval" / f"{model}-static", rollouts, model, "static", (broken,))
    return run


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    return parser.tags


def carried(page: str) -> dict[str, str]:
    """What the page carries: the index and the transcripts unpacked, the images as they stand."""
    found = re.findall(r'<script type="text/plain" id="(\w+)">([^<]*)</script>', page)
    return {
        name: body if name.startswith("i") and name != "index" else zlib.decompress(base64.b64decode(body), 31).decode()
        for name, body in found
    }


def transcripts(page: str) -> list:
    chunks = {int(name[1:]): text for name, text in carried(page).items() if name.startswith("c")}
    return [json.loads(line) for number in sorted(chunks) for line in chunks[number].split("\n")]
