"""What a stage will cost before it starts: calls, tokens and money, by seat. A model of the prompts, not a guess.

Prompts are as long as their files and what they show (`actors.spending` says how texts and images are counted). What
models write is assumed (`WRITTEN`). Every dialogue is taken to run to its end: an upper bound, except that retried
requests and replies asked for again are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from safer_steer.actors.spec import SpecKind, parse_spec
from safer_steer.actors.spending import PAID, image_tokens, price_of, text_tokens
from safer_steer.config import DEFAULT_ENDPOINT, Recipe
from safer_steer.construct.plan import Order, plan
from safer_steer.dialogue import ImageRef, ScriptKind, Seed, SeedKind
from safer_steer.errors import ConfigError

WRITTEN = {"probe": 70, "analysis": 90, "goal": 80, "turn": 50, "user": 35, "answer": 250, "verdict": 90}
"""Tokens that models are taken to write: for one planned turn `turn`, of which the user says `user`."""

Tally = dict[str, dict[str, float]]


class Estimate:
    """Adds up calls and tokens by seat."""

    def __init__(self) -> None:
        self._seats: Tally = {}

    def add(self, seat: str, prompt: float, completion: float) -> None:
        """One call."""
        entry = self._seats.setdefault(seat, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        entry["calls"] += 1
        entry["prompt_tokens"] += prompt
        entry["completion_tokens"] += completion

    def tell(self, recipe: Recipe) -> dict[str, Any]:
        """Calls, tokens and cost by seat, and all together. A cost is `None` where the model has no price."""
        seats = {seat: self._told(recipe, seat, entry) for seat, entry in self._seats.items()}
        costs = [entry["cost"] for entry in seats.values()]
        tokens = {name: sum(entry[name] for entry in seats.values()) for name in ("prompt_tokens", "completion_tokens")}
        unpriced = sorted({entry["model"] for entry in seats.values() if entry["cost"] is None})
        total: dict[str, Any] = {"calls": sum(entry["calls"] for entry in seats.values()), **tokens}
        total["cost"] = None if unpriced else round(sum(costs), 4)
        if unpriced:
            total["cost_unknown"] = f"endpoints names no price for {', '.join(unpriced)}"
        return {"seats": seats, "total": total}

    @staticmethod
    def _told(recipe: Recipe, seat: str, entry: dict[str, float]) -> dict[str, Any]:
        spec = parse_spec(getattr(recipe.seats, seat))
        price = price_of(recipe, spec)
        cost = None if spec.kind in PAID else 0.0
        if price is not None:
            cost = round(price.of(entry["prompt_tokens"], entry["completion_tokens"]), 4)
        return {"model": str(spec), **{name: round(value) for name, value in entry.items()}, "cost": cost}


STAGE_SEATS = {"construct": ("generator", "target", "attack_judge"), "bootstrap": ("red", "blue", "reward_judge")}


def width(recipe: Recipe, stage: str) -> int:
    """How many items of a stage to have open: enough to fill its servers (twice their slots), at least
    `recipe.open_dialogues`; no more than that where a model in this process takes part, whose memory they share."""
    specs = [parse_spec(getattr(recipe.seats, seat)) for seat in STAGE_SEATS[stage]]
    slots = [recipe.limits(spec.base_url).concurrency for spec in specs if spec.base_url is not None]
    here = any(spec.kind in (SpecKind.LOCAL, SpecKind.EMBEDDED) for spec in specs)
    return recipe.open_dialogues if here or not slots else max(recipe.open_dialogues, 2 * max(slots))


def check_budget(recipe: Recipe, stage: str) -> None:
    """A budget of money needs the price of every model that the stage asks, in one currency; raises `ConfigError`."""
    if recipe.budget.cost is None:
        return
    currencies = set()
    for seat in STAGE_SEATS[stage]:
        spec = parse_spec(getattr(recipe.seats, seat))
        if spec.kind not in PAID:
            continue
        price = price_of(recipe, spec)
        if price is None:
            server = DEFAULT_ENDPOINT if spec.base_url is None else spec.base_url
            hint = f"add it as endpoints: {{'{server}': {{prices: {{'{spec.model}': …}}}}}}"
            raise ConfigError(f"budget.cost needs the price of '{spec.model}'", where=f"seats.{seat}", hint=hint)
        currencies.add(price.currency)
    if len(currencies) > 1:
        what = f"budget.cost is one number, and the prices are in {' and '.join(sorted(currencies))}"
        raise ConfigError(what, where="budget.cost", hint="state every price in one currency")


def construction(recipe: Recipe, seeds: Iterable[Seed], strategies: Iterable[str]) -> Estimate:
    """Stage I. `seeds` as `plan.choose_seeds` gives them."""
    estimate = Estimate()
    chosen, names = list(seeds), tuple(strategies)
    for seed in chosen:
        if seed.kind is SeedKind.HARMFUL:
            shown = text_tokens(seed.question) + image_tokens(seed.images)
            estimate.add("generator", prompt_tokens("probe") + shown, WRITTEN["probe"])
            if seed.images:
                estimate.add("generator", prompt_tokens("visual_analysis") + shown, WRITTEN["analysis"])
    for order in plan(recipe, chosen, names):
        _write(estimate, order)
        if recipe.construction.success_filter and order.is_filtered:
            limit = min(WRITTEN["answer"], recipe.construction.target_max_tokens)
            play(estimate, order.turns, order.seed.images, limit, assistant="target", judge="attack_judge")
    return estimate


def _write(estimate: Estimate, order: Order) -> None:
    shown = text_tokens(order.seed.question) + image_tokens(order.seed.images)
    planned = order.turns * WRITTEN["turn"]
    if order.kind is ScriptKind.RED_TEAM:
        prompt = prompt_tokens("adversarial_rewriting") + shown + WRITTEN["analysis"]
        estimate.add("generator", prompt, WRITTEN["goal"])
        estimate.add("generator", prompt_tokens("dialogue_planning") + shown + WRITTEN["goal"], planned)
    else:
        estimate.add("generator", prompt_tokens(f"expand_{order.kind}") + shown, planned)


def play(
    estimate: Estimate,
    turns: int,
    images: Iterable[ImageRef],
    answer: float,
    *,
    assistant: str,
    judge: str,
    user: str | None = None,
) -> None:
    """One dialogue of so many turns, to its end: everybody reads the whole history and the images at every turn."""
    seen = image_tokens(images)
    prompts = {"target": 0.0, "blue": prompt_tokens("blue_guidelines"), "red": prompt_tokens("red_rewrite")}
    judging = prompt_tokens("attack_judge" if judge == "attack_judge" else "tutor")
    for turn in range(turns):
        history = seen + turn * (WRITTEN["user"] + answer)
        if user is not None and turn > 0:  # the first turn is said as it is written
            estimate.add(user, prompts[user] + history + WRITTEN["user"], WRITTEN["user"])
        estimate.add(assistant, prompts[assistant] + history + WRITTEN["user"], answer)
        estimate.add(judge, judging + history + WRITTEN["user"] + answer, WRITTEN["verdict"])


@cache
def prompt_tokens(name: str) -> float:
    """About how many tokens the prompt `name` has before anything is put into it."""
    return text_tokens(files("safer_steer.prompts").joinpath(f"{name}.md").read_text(encoding="utf-8"))
