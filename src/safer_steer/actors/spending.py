"""What calls took and cost: tokens told or estimated, sums by model, and the one place where a price is applied.

A server that does not tell a call's tokens leaves them unknown, never 0. Where they only inform (a bill), such calls
are counted beside the sums. Where they bind (a budget), they are estimated: four characters are a token, an image is
one for 28×28 pixels (at most 1,280).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from safer_steer.actors.chat import Completion, Message
from safer_steer.actors.judging import members_of
from safer_steer.actors.spec import Spec, SpecKind, parse_spec
from safer_steer.config import DEFAULT_ENDPOINT, Recipe
from safer_steer.dialogue import ImageRef, Record, Usage
from safer_steer.limits import Limits, Price

CHARACTERS = 4.0
PATCH, MOST_PATCHES = 28 * 28, 1280

PAID = (SpecKind.OPENAI, SpecKind.INSPECT)
"""Models behind somebody's server, which may charge for them."""


def text_tokens(text: str) -> float:
    """About how many tokens a text has."""
    return len(text) / CHARACTERS


def image_tokens(images: Iterable[ImageRef]) -> float:
    """About how many tokens some images have."""
    return float(sum(min(MOST_PATCHES, ref.width * ref.height / PATCH) for ref in images))


class Counted(Record):
    """The tokens of one call. `estimated` of them were not told by the server.

    >>> Counted(prompt=10, completion=3, estimated=3).is_told
    False
    """

    prompt: int
    completion: int
    estimated: int = 0

    @property
    def is_told(self) -> bool:
        return self.estimated == 0


def count(messages: Sequence[Message], reply: Completion) -> Counted:
    """A call's tokens; what the server did not tell is estimated, at least one token for either side."""
    prompt, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
    estimated = 0
    if prompt is None:
        prompt = max(1, round(sum(text_tokens(one.text) + image_tokens(one.images) for one in messages)))
        estimated += prompt
    if written is None:
        written = max(1, round(text_tokens(reply.text)))
        estimated += written
    return Counted(prompt=prompt, completion=written, estimated=estimated)


class Spent(Record):
    """What one model was asked: calls that were answered, and their tokens.

    `untold` counts the calls whose tokens the server did not tell; `estimated` is how many of the tokens are estimates.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    untold: int = 0
    estimated: int = 0

    def plus(self, call: Counted, times: int = 1) -> Spent:
        """With one call more, or (`times=-1`) one less."""
        return Spent(
            calls=self.calls + times,
            prompt_tokens=self.prompt_tokens + times * call.prompt,
            completion_tokens=self.completion_tokens + times * call.completion,
            untold=self.untold + times * (not call.is_told),
            estimated=self.estimated + times * call.estimated,
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def told(usages: Iterable[Usage], found: Spent = Spent()) -> Spent:  # noqa: B008 - frozen
    """`found` and what servers told since; a call that lacks either count adds nothing but itself to `untold`."""
    for usage in usages:
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            found = found.model_copy(update={"calls": found.calls + 1, "untold": found.untold + 1})
        else:
            found = found.plus(Counted(prompt=usage.prompt_tokens, completion=usage.completion_tokens))
    return found


def known_cost(price: Price | None, spent: Spent) -> float | None:
    """The cost of the calls whose tokens are known; `None` without a price, or where none is known."""
    if price is None or (spent.calls > 0 and spent.untold == spent.calls):
        return None
    return price.of(spent.prompt_tokens, spent.completion_tokens)


def cost_of(prices: Mapping[str, Price], spent: Mapping[str, Spent]) -> float | None:
    """What the calls of several models cost; `None` where one has no price, or they are in several currencies."""
    if any(name not in prices for name in spent) or len({prices[name].currency for name in spent}) > 1:
        return None
    return sum(prices[name].of(s.prompt_tokens, s.completion_tokens) for name, s in spent.items())


def price_of(recipe: Recipe, spec: Spec) -> Price | None:
    """What `endpoints` says a model costs: its server's entry, or for `inspect:` models, which have none, `default`."""
    if spec.kind not in PAID or spec.model is None:
        return None
    if spec.base_url is not None:
        return recipe.limits(spec.base_url).prices.get(spec.model)
    return recipe.endpoints.get(DEFAULT_ENDPOINT, Limits()).prices.get(spec.model)


def prices_of(recipe: Recipe) -> dict[str, Price]:
    """The prices that `endpoints` gives for the models in the recipe's seats, by SPEC."""
    found = {}
    for seat, text in recipe.seats.model_dump().items():
        specs = [judge.spec for judge in members_of(text)] if seat == "judge" else [parse_spec(text)]
        for spec in specs:
            price = price_of(recipe, spec)
            if price is not None:
                found[str(spec)] = price
    return found
