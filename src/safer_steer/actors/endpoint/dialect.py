"""How a server wants to be asked. Servers differ; what one rejects is learned from its own 400, once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from safer_steer.actors.chat import Sampling

_WORDS = re.compile(r"[a-z_]+")
_REJECTS = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|not available|instead"
    r"|invalid (field|parameter|argument|property)|only the default",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which optional fields a model takes. It only ever loses one, so learning ends.

    `schema` is whether `response_format` with a JSON schema is sent; the prompts ask for the JSON in words too.
    """

    max_tokens: str = "max_tokens"
    temperature: bool = True
    top_p: bool = True
    seed: bool = True
    schema: bool = True


FULL = Dialect()


def learn(dialect: Dialect, param: str | None, message: str) -> Dialect | None:
    """The dialect to use after a 400 that names `param` or says `message`; `None` if it teaches nothing new.

    Only a message that calls a field unsupported teaches: one that calls its value too large does not.

    >>> learn(Dialect(), "max_tokens", "Unsupported parameter").max_tokens
    'max_completion_tokens'
    >>> learn(Dialect(), "max_tokens", "max_tokens is too large: 99999") is None
    True
    """
    if not _REJECTS.search(message):
        return None
    named = {param.split(".")[0]} if param else set(_WORDS.findall(message.lower()))
    if dialect.max_tokens == "max_tokens" and "max_tokens" in named:
        return replace(dialect, max_tokens="max_completion_tokens")
    if dialect.temperature and "temperature" in named:
        return replace(dialect, temperature=False)
    if dialect.top_p and "top_p" in named:
        return replace(dialect, top_p=False)
    if dialect.seed and "seed" in named:
        return replace(dialect, seed=False)
    if dialect.schema and named & {"response_format", "json_schema", "guided_json"}:
        return replace(dialect, schema=False)
    return None


def left_out(dialect: Dialect, sampling: Sampling, *, schema: bool) -> tuple[str, ...]:
    """What a request asks for and `dialect` does not send.

    >>> left_out(Dialect(temperature=False, seed=False), Sampling(temperature=0.0), schema=True)
    ('temperature',)
    """
    if dialect == FULL:
        return ()
    wanted = {
        "temperature": not dialect.temperature,
        "top_p": not dialect.top_p and sampling.top_p < 1.0,
        "seed": not dialect.seed and sampling.seed is not None,
        "response_format": not dialect.schema and schema,
    }
    return tuple(name for name, missed in wanted.items() if missed)


def dropped(before: Dialect, after: Dialect) -> str | None:
    """The setting of a request that `after` no longer sends; `None` where it only goes by another name.

    >>> dropped(Dialect(), Dialect(temperature=False))
    'temperature'
    >>> dropped(Dialect(), Dialect(max_tokens="max_completion_tokens")) is None
    True
    """
    names = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "schema": "response_format"}
    return next((told for name, told in names.items() if getattr(before, name) and not getattr(after, name)), None)
