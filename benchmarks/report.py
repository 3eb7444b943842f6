"""How long a large report takes, how big it is, and whether it stays smooth: `python benchmarks/report.py [options]`.

Writes evaluations of several models on the same synthetic dialogues (text of a small vocabulary, JPEG images of noise
and shapes), then measures the report of all of them, and in headless Chromium the time to the first dialogue, a full
text search, and the frames while the list is scrolled.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import CHROMIUM, Browser
from people import STAMP, ToldAssistant, ToldJudge
from safer_steer.bench.books import outcomes
from safer_steer.bench.evaluate import Evaluation, summarise
from safer_steer.bench.turns import write_turns
from safer_steer.config import EvalConfig
from safer_steer.dialogue import (
    Answer,
    AnswerState,
    FinishReason,
    ImageRef,
    Rollout,
    Script,
    ScriptKind,
    StopReason,
    Turn,
    Usage,
    UserTurn,
)
from safer_steer.image_store import ImageStore
from safer_steer.report import write_comparison, write_eval_report
from safer_steer.seats import ScriptUser
from safer_steer.store import write_json, write_records
from safer_steer.verdict import Scored

LOT = random.Random(0)
WORDS = ["".join(LOT.choices("abcdefghiklmnoprstuvw", k=LOT.randint(2, 10))) for _ in range(6000)]
KINDS = (ScriptKind.RED_TEAM, ScriptKind.OBFUSCATED, ScriptKind.BENIGN)


def prose(words: int) -> str:
    places = (int(len(WORDS) * LOT.random() ** 3) for _ in range(words))  # some words are common, most are rare
    return " ".join(WORDS[place] for place in places)


def picture(store: ImageStore, number: int) -> ImageRef:
    lot = np.random.default_rng(number)
    coarse = lot.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return store.put(buffer.getvalue(), name=f"{number}.jpg")


def scripts(count: int, turns: int, store: ImageStore, images: int) -> list[Script]:
    refs = [picture(store, number) for number in range(images)]
    return [
        Script(
            id=f"d{n:05}", seed_id=f"seed-{n}", kind=KINDS[n % 3], category=f"category_{n % 13}",
            images=(refs[n % images],), turns=tuple(UserTurn(text=prose(25)) for _ in range(turns)),
            strategy=f"strategy_{n % 8}" if n % 3 == 0 else None, suite=f"suite-{n % 5}",
        )
        for n in range(count)
    ]  # fmt: skip


def played(script: Script, slip: float) -> Rollout:
    turns = []
    for index, asked in enumerate(script.turns, 1):
        text = prose(LOT.randint(60, 240))
        safety = LOT.choice((-3, -1, 0, 1)) if LOT.random() < slip else LOT.choice((2, 3, 3, 3))
        verdict = Scored(scores={"safety": safety, "helpfulness": LOT.randint(0, 3)}, rationale=prose(30), stamp=STAMP)
        usage = Usage(prompt_tokens=900, completion_tokens=200, seconds=LOT.random())
        answer = Answer(text=text, raw=text, state=AnswerState.OK, finish=FinishReason.STOP, usage=usage)
        turns.append(Turn(index=index, user=asked.text, answer=answer, verdict=verdict))
    return Rollout(script=script, turns=tuple(turns), stop=StopReason.COMPLETED)


def evaluation(folder: Path, everyone: list[Script], name: str, slip: float, store: ImageStore) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").symlink_to(store.root.resolve(), target_is_directory=True)
    write_records(folder / "rollouts.jsonl", (played(script, slip) for script in everyone))
    write_records(folder / "faults.jsonl", [])
    seats = (ToldAssistant(lambda h: "x"), ToldJudge(lambda h, a: None), ScriptUser())
    of = Evaluation(*seats, scripts=(), suite="synthetic", protocol="static", folder=folder, name=name)
    rollouts = list(outcomes(folder))
    began = time.process_time()
    summary = summarise(rollouts, of, EvalConfig(), 1.0)
    print(f"  {name}: figures of {len(rollouts)} dialogues {time.process_time() - began:.1f} CPU-s", flush=True)
    write_json(folder / "summary.json", summary.contract())
    write_turns(folder / "turns.parquet", rollouts, model=name, protocol="static", suite="synthetic")


SCROLL = """
new Promise((done) => {
  const pane = document.getElementById("list"), gaps = [];
  let before = performance.now(), left = 120;
  const step = (now) => {
    gaps.push(now - before); before = now;
    pane.scrollTop += 900;
    if (--left) requestAnimationFrame(step);
    else done(JSON.stringify(gaps.slice(1).sort((a, b) => a - b)));
  };
  requestAnimationFrame(step);
})
"""
SEARCH = """
new Promise((done) => {
  const began = performance.now(), field = document.getElementById("q"), shown = document.getElementById("shown");
  field.value = "zzzz"; field.dispatchEvent(new Event("input", { bubbles: true }));
  const look = () => /^0 of \\d+$/.test(shown.textContent) ? done(performance.now() - began) : setTimeout(look, 20);
  setTimeout(look, 20);
})
"""
OPEN = """
new Promise((done) => {
  const began = performance.now(), reader = document.getElementById("reader");
  location.hash = ANCHOR;
  const look = () => reader.querySelector(".step") ? done(performance.now() - began) : setTimeout(look, 2);
  setTimeout(look, 2);
})
"""


def in_browser(page: Path, anchor: str) -> None:
    with Browser(width=1280, height=900) as browser:
        began = time.monotonic()
        browser.open(page, timeout=120)
        print(f"  opens in {time.monotonic() - began:.1f} s (parsed, index unpacked, list drawn)")
        print(f"  a dialogue opens in {browser.evaluate(OPEN.replace('ANCHOR', json.dumps(anchor))):.0f} ms")
        before = browser.figures()
        gaps = json.loads(browser.evaluate(SCROLL, timeout=60))
        spent = {name: 1000 * (value - before[name]) / len(gaps) for name, value in browser.figures().items()}
        ours = sum(spent[f"{name}Duration"] for name in ("Script", "RecalcStyle", "Layout"))
        print(
            f"  scrolling a view a frame: {ours:.1f} ms of script, style, layout a frame, {spent['TaskDuration']:.1f}"
        )
        print(f"    in all with software painting; frames came every {gaps[len(gaps) // 2]:.0f} ms (median)")
        print(f"  searching every text: {browser.evaluate(SEARCH, timeout=120) / 1000:.1f} s")


def timed(work: Callable[[], Path]) -> tuple[Path, str]:
    """What the work made, and the wall and CPU time that it took."""
    began, cpu = time.monotonic(), time.process_time()
    made = work()
    return made, f"{time.monotonic() - began:.1f} s ({time.process_time() - cpu:.1f} CPU-s)"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dialogues", type=int, default=3227)
    options.add_argument("--models", type=int, default=3)
    options.add_argument("--turns", type=int, default=10)
    options.add_argument("--images", type=int, default=3227)
    options.add_argument("--keep", type=Path, help="leave the evaluations here, and use what lies there")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) if given.keep is None else given.keep
        folders = [root / f"m{number}" for number in range(given.models)]
        if not folders[-1].exists():
            store = ImageStore(root / "images")
            everyone = scripts(given.dialogues, given.turns, store, given.images)
            for number, folder in enumerate(folders):
                evaluation(folder, everyone, f"model-{number}", 0.2 / (number + 1), store)
        print("as `safer-steer eval` leaves them:")
        for folder in folders:
            _, took = timed(partial(write_eval_report, folder, ImageStore(folder / "images")))
            print(f"  {folder.name}: its own report in {took}")
        page, took = timed(partial(write_comparison, folders, root / "out"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"report of {given.dialogues} dialogues x {given.models} models x {given.turns} turns:")
        print(f"  written in {took}, {page.stat().st_size / 1e6:.0f} MB, peak {peak} MB")
        if CHROMIUM is not None:
            in_browser(page, f"static-d{given.dialogues // 2:05}")


if __name__ == "__main__":
    main()
