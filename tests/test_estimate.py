"""What a stage will cost, before it starts: forecasts, and budgets that could not be kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from people import script
from safer_steer import forecast
from safer_steer.actors.spending import prices_of
from safer_steer.config import Recipe, recipe_from
from safer_steer.construct import estimate
from safer_steer.dialogue import ScriptKind, Split
from safer_steer.errors import ConfigError
from safer_steer.limits import Price
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_records

HOST = "https://api.example.org/v1"
CHEAP = {"prompt": 1.0, "completion": 2.0}


def priced(generator: str, target: str = "scripted", **endpoints: object) -> Recipe:
    seats = {"generator": generator, "target": target}
    return recipe_from({"seats": seats, "budget": {"cost": 1.0}, "endpoints": endpoints})


@pytest.mark.parametrize(
    ("generator", "hint"),
    [
        (f"openai:m@{HOST}", rf"seats.generator: .*price of 'm' .*'{HOST}': {{prices: {{'m'"),
        ("inspect:anthropic/claude", r"seats.generator: .*price of 'anthropic/claude' .*'default': {prices"),
    ],
)
def test_a_budget_of_money_without_a_price_is_refused(generator: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        estimate.check_budget(priced(generator), "construct")


def test_a_budget_of_money_with_every_price_is_kept_for_every_kind_of_server() -> None:
    recipe = priced(
        "inspect:anthropic/claude",
        f"openai:m@{HOST}",
        default={"prices": {"anthropic/claude": CHEAP}},
        **{HOST: {"prices": {"m": CHEAP}}},
    )
    estimate.check_budget(recipe, "construct")
    assert prices_of(recipe) == {"inspect:anthropic/claude": Price(**CHEAP), f"openai:m@{HOST}": Price(**CHEAP)}


def test_a_budget_in_two_currencies_is_refused() -> None:
    euros = {**CHEAP, "currency": "EUR"}
    recipe = priced(f"openai:a@{HOST}", f"openai:b@{HOST}", **{HOST: {"prices": {"a": CHEAP, "b": euros}}})
    with pytest.raises(ConfigError, match=r"budget\.cost is one number, and the prices are in EUR and USD"):
        estimate.check_budget(recipe, "construct")


def test_prices_are_found_for_every_judge_of_a_panel() -> None:
    panel = f"panel:[scripted, 2*openai:m@{HOST}, inspect:google/gemini]"
    prices = {"default": {"prices": {"google/gemini": CHEAP}}, HOST: {"prices": {"m": CHEAP}}}
    recipe = recipe_from({"seats": {"judge": panel}, "endpoints": prices})
    assert set(prices_of(recipe)) == {f"openai:m@{HOST}", "inspect:google/gemini"}


def test_a_forecast_knows_no_cost_of_a_provider_without_a_price() -> None:
    told = estimate.Estimate()
    told.add("generator", 1e6, 5e5)
    total = told.tell(recipe_from({"seats": {"generator": "inspect:anthropic/claude"}}))["total"]
    assert total["cost"] is None and "inspect:anthropic/claude" in total["cost_unknown"]
    prices = {"default": {"prices": {"anthropic/claude": CHEAP}}}
    recipe = recipe_from({"seats": {"generator": "inspect:anthropic/claude"}, "endpoints": prices})
    assert told.tell(recipe)["total"]["cost"] == 2.0


@pytest.mark.parametrize("single", [False, True])
def test_a_forecast_of_stage_two_counts_what_is_played(tmp_path: Path, single: bool) -> None:
    """Eight scripts of four turns, all for SFT; alone, each seed and kind is asked once, as it is written."""
    run = RunFolder(tmp_path)
    made = [script("a", "b", "c", "d", id=f"s{number}", split=Split.TRAIN) for number in range(8)]
    made = [one.model_copy(update={"seed_id": f"seed-{number // 2}"}) for number, one in enumerate(made)]
    for kind in ScriptKind:
        write_records(tmp_path / "construct" / f"{kind}.jsonl", made if kind is ScriptKind.RED_TEAM else [])
    run.finish("construct", {})
    recipe = recipe_from({"single_turn": single, "bootstrap": {"sft_share": 1.0}})
    calls = json.loads(forecast.text(recipe, "bootstrap", run))["bootstrap"]["calls"]
    if single:
        assert calls == {"blue": 4, "reward_judge": 4}
    else:
        assert calls == {"red": 8 * 3, "blue": 8 * 4, "reward_judge": 8 * 4}
