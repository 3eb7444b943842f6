"""Stages I and II against a server with faults: what is malformed stays out, budgets hold, kills change nothing."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from acceptance import CONTENT, Faulty, recipe_of, serving
from command import run, start
from safer_steer.actors.specs import Seating
from safer_steer.bootstrap import bootstrap
from safer_steer.bootstrap import forecast as bootstrap_forecast
from safer_steer.config import Recipe, recipe_from
from safer_steer.construct.records import Reason, Rejected
from safer_steer.construct.stage import construct, forecast, scripts_of
from safer_steer.dialogue import Rollout, Script, Split
from safer_steer.errors import BudgetSpent, ConfigError
from safer_steer.pipeline import Pipeline
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records

pytestmark = pytest.mark.anyio
SPLITS = (
    "construct/red_team.jsonl", "construct/obfuscated.jsonl", "construct/benign.jsonl", "construct/rejected.jsonl",
    "construct/contamination.json", "bootstrap/kept.jsonl", "bootstrap/dropped.jsonl", "bootstrap/rl.jsonl",
    "bootstrap/val.jsonl", "bootstrap/bench.jsonl", "bootstrap/contamination.json",
)  # fmt: skip


async def stage_one(recipe: Recipe, root: Path) -> dict[str, Any]:
    run_ = RunFolder(root)
    async with Seating(recipe, run_.images, environ={}) as seats:
        seeds = Pipeline(recipe, run_, Silent()).seeds().seeds
        return await construct(
            recipe,
            run_,
            seeds=seeds,
            generator=seats.generator(),
            target=seats.target(),
            attack_judge=seats.attack_judge(),
            report=Silent(),
        )


async def stage_two(recipe: Recipe, root: Path) -> dict[str, Any]:
    run_ = RunFolder(root)
    async with Seating(recipe, run_.images, environ={}) as seats:
        return await bootstrap(
            recipe,
            run_,
            scripts=scripts_of(run_),
            red=seats.red(),
            blue=seats.blue(),
            reward_judge=seats.reward_judge(),
            report=Silent(),
        )


async def test_what_the_generator_spoils_is_asked_for_again_then_recorded_and_never_used(tmp_path: Path) -> None:
    with serving(Faulty(fault=0.1, spoil=0.35)) as server:
        recipe = recipe_from(recipe_of(server, tmp_path, (10, 6, 4), construction={"success_filter": False}))
        result = await stage_one(recipe, tmp_path / "run")
    assert set(server.faults) >= set(CONTENT), "every kind of fault came up"
    made = list(scripts_of(RunFolder(tmp_path / "run")))
    texts = [turn.text for script in made for turn in script.turns]
    assert made and all(text.strip() and "sorry" not in text and "asked for" not in text for text in texts)
    assert all(2 <= len(script.turns) <= 8 for script in made)
    left_out = list(read_records(tmp_path / "run" / "construct" / "rejected.jsonl", Rejected))
    assert {entry.reason for entry in left_out} == {Reason.MALFORMED, Reason.GENERATOR_REFUSED}
    assert all("gave no usable reply" in entry.detail and entry.script is None for entry in left_out)
    assert sum(result["left_out"].values()) + len(made) == 17 * 3 + 3  # a benign seed has one script


async def test_a_budget_stops_the_run_and_a_larger_one_ends_it_as_if_nothing_had_been(tmp_path: Path) -> None:
    with serving(Faulty(fault=0.05)) as server:
        values = recipe_of(server, tmp_path, (4, 3, 1))
        whole = await stage_one(recipe_from(values), tmp_path / "calm")
        once = server.answered.total()
        assert set(server.answered.values()) == {1}
        server.answered.clear()
        for calls in (1, once // 3, once // 2):
            with pytest.raises((BudgetSpent, ExceptionGroup)) as caught:
                await stage_one(recipe_from({**values, "budget": {"calls": calls}}), tmp_path / "rough")
            assert caught.group_contains(BudgetSpent) if isinstance(caught.value, ExceptionGroup) else True
            assert server.answered.total() == calls
        assert await stage_one(recipe_from(values), tmp_path / "rough") == whole
        assert server.answered.total() == once and set(server.answered.values()) == {1}
    for name in SPLITS[:5]:
        assert (tmp_path / "rough" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    usage = json.loads((tmp_path / "rough" / "construct" / "usage.json").read_text())
    assert sum(model["calls"] for model in usage["models"].values()) == once
    assert usage["cost"] is None


async def test_the_forecast_is_what_happens(tmp_path: Path) -> None:
    prices = {name: {"prompt": 1.0, "completion": 4.0} for name in ("generator", "target", "attack_judge")}
    with serving(Faulty()) as server:
        limits = {"default": {"concurrency": 16, "prices": prices}}
        values = recipe_of(server, tmp_path, (6, 4, 2), endpoints=limits)
        recipe = recipe_from(values)
        told = forecast(recipe, Pipeline(recipe, RunFolder(tmp_path / "run"), Silent()).seeds().seeds)
        assert server.asked.total() == 0
        await stage_one(recipe, tmp_path / "run")
        later = bootstrap_forecast(recipe, scripts_of(RunFolder(tmp_path / "run")))
        with pytest.raises(ConfigError, match=r"budget\.cost needs the price of 'red'"):
            await stage_two(recipe_from({**values, "budget": {"cost": 1}}), tmp_path / "run")
    usage = json.loads((tmp_path / "run" / "construct" / "usage.json").read_text())
    spent = {name.split(":")[1].split("@")[0]: model for name, model in usage["models"].items()}
    assert spent["generator"]["calls"] == told["calls"]["generator"]
    assert spent["target"]["calls"] <= told["calls"]["target"]  # an attack stops at its first success
    share = spent["generator"]["prompt_tokens"] / told["spending"]["seats"]["generator"]["prompt_tokens"]
    assert 0.5 < share < 2
    assert usage["cost"] == pytest.approx(
        sum(m["prompt_tokens"] + 4 * m["completion_tokens"] for m in spent.values()) / 1e6
    )
    total = told["spending"]["total"]
    assert usage["cost"] < total["cost"] and total["calls"] == sum(told["calls"].values())
    assert later["spending"]["total"]["cost"] is None and "red" in later["spending"]["total"]["cost_unknown"]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_two_hundred_and_forty_seeds_of_three_loaders_killed_five_times(tmp_path: Path) -> None:
    with serving(Faulty(fault=0.06, spoil=0.02, delay=0.005)) as server:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_of(server, tmp_path, (100, 80, 60))))

        def stage(name: str, out: str) -> None:
            code, _, err = run(name, "--recipe", path, "--out", tmp_path / out)
            assert code == 0, err

        for name in ("construct", "bootstrap"):
            stage(name, "calm")
        assert {"429", "500", "half", "reset", *CONTENT} == set(server.faults)
        assert set(server.answered.values()) == {1}, "nothing is asked twice"
        once = server.answered.copy()
        server.answered.clear()
        server.asked.clear()
        kills = [("construct", 0.1), ("construct", 0.5), ("construct", 0.9), ("bootstrap", 0.2), ("bootstrap", 0.7)]
        share = {"construct": "generated.jsonl", "bootstrap": "rollouts.jsonl"}
        for name, part in kills:
            if name == "bootstrap" and not (tmp_path / "rough" / "construct" / "stage.json").exists():
                stage("construct", "rough")
            whole = lines(tmp_path / "calm" / name / share[name])
            process = start(name, "--recipe", path, "--out", tmp_path / "rough")
            journal = tmp_path / "rough" / name / share[name]
            while process.poll() is None and lines(journal) < part * whole:
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL, "killed in the middle"
            process.communicate()
        stage("bootstrap", "rough")
    for name in SPLITS:
        assert (tmp_path / "rough" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    assert server.answered.keys() == once.keys()
    assert sum(count - 1 for count in server.answered.values()) <= 5 * 16, "at most what was in flight is asked again"
    scripts = list(read_records(tmp_path / "calm" / "bootstrap" / "bench.jsonl", Script))
    assert {script.split for script in scripts} == {Split.TEST} and len(scripts) > 60
    kept = list(read_records(tmp_path / "calm" / "bootstrap" / "kept.jsonl", Rollout))
    assert abs(sum(len(r.turns) for r in kept) / len(kept) - 4.0) < 0.1
    assert Counter(s.kind for s in read_records(tmp_path / "calm" / "bootstrap" / "rl.jsonl", Script)).total() <= 20
