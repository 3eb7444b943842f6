"""Small people and seeds for Stages I and II: deterministic, countable, and able to die in the middle."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from people import STAMP, ToldAssistant, ToldJudge
from safer_steer.actors.generating import Probe, Strategy, script_of
from safer_steer.bootstrap import Shelf, divide
from safer_steer.config import Recipe, recipe_from
from safer_steer.dialogue import History, Script, ScriptKind, Seed, SeedKind, Split, UserTurn, stable_id
from safer_steer.errors import ActorError
from safer_steer.run_folder import RunFolder
from safer_steer.verdict import Scored, Verdict

STRATEGIES = ("roleplay", "fiction_writer", "authority_figure")


class Pulled(Exception):
    """Somebody pulled the plug: not an `ActorError`, so nothing catches it."""


def recipe(**sections: object) -> Recipe:
    values = {"construction": {"strategies": STRATEGIES, "strategies_per_seed": 2, "perturb_share": 0.5}}
    values["open_dialogues"] = 4
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return recipe_from(values)


def run_with_seeds(root: Path, count: int = 9) -> tuple[RunFolder, list[Seed]]:
    """A run folder and seeds, a third of them benign, in all splits and three categories, each with its own image."""
    run = RunFolder(root)
    seeds = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (number * 20 % 256, 90, 40)).save(buffer, format="PNG")
        ref = run.images.put(buffer.getvalue(), name=f"picture-{number}")
        seeds.append(
            Seed(
                id=f"seed-{number}",
                kind=SeedKind.BENIGN if number % 3 == 2 else SeedKind.HARMFUL,
                category=("fraud", "drugs", "maths")[number % 3],
                question=f"What about the thing number {number}?",
                images=(ref,),
                split=(Split.TRAIN, Split.TRAIN, Split.VAL, Split.TEST)[number // 3 % 4],
            )
        )
    return run, seeds


@dataclass(frozen=True)
class Divided:
    """`Pools` of scripts instead of their cards."""

    sft: list[Script]
    rl: list[Script]
    repeats: list[Script]
    plain: list[Script]
    spare: list[Script]


def divided(recipe: Recipe, scripts: Iterable[Script]) -> Divided:
    with Shelf(scripts) as shelf:
        pools = divide(recipe, shelf)
        return Divided(**{name: list(shelf.scripts(getattr(pools, name))) for name in Divided.__dataclass_fields__})


class ToldGenerator:
    """Writes distinct sentences. `pull_at`: dies at that call. `fails`: seeds whose scripts it cannot write."""

    name = "told-generator"

    def __init__(self, pull_at: int | None = None, fails: frozenset[str] = frozenset(), odd: str | None = None) -> None:
        self.pull_at, self.fails, self.odd = pull_at, fails, odd
        self.asked: Counter[tuple[str, ...]] = Counter()

    def _count(self, *what: str) -> None:
        self.asked[what] += 1
        if self.pull_at is not None and self.asked.total() == self.pull_at:
            raise Pulled

    async def probe(self, seed: Seed) -> Probe:
        self._count("probe", seed.id)
        return Probe(benign=f"harmless: {seed.question}", obfuscated=f"hidden: {seed.question}")

    def _script(self, seed: Seed, kind: ScriptKind, turns: int, rng_seed: int, strategy: str | None = None) -> Script:
        self._count(kind, seed.id, strategy or "")
        if seed.id in self.fails:
            raise ActorError("cannot", where=seed.id)
        if seed.id == self.odd:
            turns -= 1
        lines = [stable_id(seed.question, kind, strategy, t) for t in range(turns)]
        told = [UserTurn(text=f"{line[:4]} {line[4:8]} {line[8:12]} {line[12:]} turn") for line in lines]
        return script_of(seed, kind, told, rng_seed, strategy=strategy)

    async def obfuscated(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        return self._script(seed, ScriptKind.OBFUSCATED, turns, rng_seed)

    async def analyse(self, seed: Seed) -> str | None:
        self._count("analyse", seed.id)
        return "a thing"

    async def red_team(
        self, seed: Seed, strategy: Strategy, turns: int, rng_seed: int, findings: str | None = None
    ) -> Script:
        assert findings == "a thing"
        return self._script(seed, ScriptKind.RED_TEAM, turns, rng_seed, strategy.id)

    async def benign(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        return self._script(seed, ScriptKind.BENIGN, turns, rng_seed)


def leaks_at(script: Script) -> int:
    """The turn at which the weak target gives in: often late, or never within the script."""
    return 1 + int(stable_id(script.id, "leak"), 16) % 9


def weak_target(pull_at: int | None = None) -> ToldAssistant:
    """A target that gives in at `leaks_at`."""
    calls = 0

    def say(history: History) -> str:
        nonlocal calls
        calls += 1
        if calls == pull_at:
            raise Pulled
        return "a leak" if history.index >= leaks_at(history.script) else "no"

    return ToldAssistant(say)


def leak(score: int) -> Scored:
    return Scored(scores={"leak": float(score)}, rationale="told so", stamp=STAMP)


def attack_judge() -> ToldJudge:
    def judge(history: History, answer: str) -> Verdict:
        return leak(5 if "leak" in answer else 1)

    return ToldJudge(judge)
