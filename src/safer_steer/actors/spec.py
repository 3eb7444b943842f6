"""SPEC strings: a model by name.

embedded               the small student that arrives with pip
scripted               the offline cast
local:PATH             a transformers model in a folder
openai:MODEL@BASE_URL  a model behind any OpenAI-compatible server
inspect:PROVIDER/MODEL any model that Inspect knows (the extra `safer-steer[inspect]`)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from safer_steer.actors.endpoint import check_base_url
from safer_steer.config import Seats
from safer_steer.dialogue import Record
from safer_steer.errors import ConfigError
from safer_steer.weights import weights_print

_KNOWN = "embedded, scripted, local:PATH, openai:MODEL@BASE_URL or inspect:PROVIDER/MODEL"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class SpecKind(StrEnum):
    EMBEDDED = "embedded"
    SCRIPTED = "scripted"
    LOCAL = "local"
    OPENAI = "openai"
    INSPECT = "inspect"


IN_PROCESS = (SpecKind.EMBEDDED, SpecKind.LOCAL)
"""What computes in this process."""

_WITH_A_NAME = (SpecKind.LOCAL, SpecKind.OPENAI, SpecKind.INSPECT)


class Spec(Record):
    """A parsed SPEC string; `str()` gives it back. `model` is a folder for `local`, a model's name for `openai`."""

    kind: SpecKind
    model: str | None = None
    base_url: str | None = None

    def __str__(self) -> str:
        tail = "" if self.model is None else f":{self.model}"
        return f"{self.kind}{tail}" + ("" if self.base_url is None else f"@{self.base_url}")


def parse_spec(text: str) -> Spec:
    """Read a SPEC string; raises `ConfigError` that names it and says what there is.

    >>> parse_spec("openai:qwen/vl@http://127.0.0.1:8000/v1/")
    Spec(kind=<SpecKind.OPENAI: 'openai'>, model='qwen/vl', base_url='http://127.0.0.1:8000/v1')
    """
    if text in (SpecKind.EMBEDDED, SpecKind.SCRIPTED):
        return Spec(kind=SpecKind(text))
    kind, _, rest = text.partition(":")
    if _UNPRINTABLE.search(text) or rest != rest.strip() or kind not in _WITH_A_NAME:
        raise ConfigError(f"{text!r} names no model", where="SPEC", hint=f"write {_KNOWN}")
    if kind == SpecKind.LOCAL:
        if not rest:
            raise ConfigError("'local:' names no folder", where="SPEC", hint="write local:PATH")
        return Spec(kind=SpecKind.LOCAL, model=rest)
    if kind == SpecKind.INSPECT:
        provider, slash, name = rest.partition("/")
        if not (provider and slash and name):
            raise ConfigError("'inspect:' needs a provider and a model", where="SPEC", hint="inspect:PROVIDER/MODEL")
        return Spec(kind=SpecKind.INSPECT, model=rest)
    model, at, address = rest.rpartition("@")
    if not at or not model.strip():
        hint = "write openai:MODEL@BASE_URL, such as openai:my-model@http://127.0.0.1:8000/v1"
        raise ConfigError("'openai:' needs a model and a base URL", where="SPEC", hint=hint)
    if re.search(r"@https?://", model):
        raise ConfigError("the base URL carries a user name or password", where="SPEC", hint="leave it out")
    return Spec(kind=SpecKind.OPENAI, model=model, base_url=check_base_url(address))


def model_print(text: str) -> str:
    """The model of a SPEC as it is now: its name, or what stands in the weight files of a folder."""
    spec = parse_spec(text)
    return weights_print(Path(spec.model)) if spec.kind is SpecKind.LOCAL and spec.model is not None else text


def seats_print(seats: Seats, names: Iterable[str]) -> dict[str, str]:
    """Who sits in some seats, for fingerprints: a model behind a server is the same one at another address."""
    found = {}
    for name in names:
        spec = parse_spec(getattr(seats, name))
        found[name] = model_print(str(spec)) if spec.base_url is None else f"{spec.kind}:{spec.model}"
    return found
