"""Who may judge an evaluation: SPEC strings of judges, guards and panels, and how they are seated.

SPEC                              any model, with the rubric judge's prompt (`scripted`: the offline judge)
GUARD:MODEL@BASE_URL              a guard behind a server: see `guards.GuardKind`
GUARD:SPEC                        the same on another model, such as `strongreject:local:PATH`
panel:[JUDGE, 3*JUDGE, …]         a panel; `N*` asks a judge N times
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.actors.chat import Sampling
from safer_steer.actors.guards import GuardKind, LlamaGuard, StrongReject, WildGuard
from safer_steer.actors.judge import JUDGING, RubricJudge
from safer_steer.actors.moderation import ModerationGuard
from safer_steer.actors.panel import Panel, PanelRule, ScaledJudge
from safer_steer.actors.spec import Spec, SpecKind, model_print, parse_spec
from safer_steer.config import EvalConfig
from safer_steer.dialogue import Record
from safer_steer.errors import ConfigError
from safer_steer.prompts import Prompt, read_prompt

if TYPE_CHECKING:
    from safer_steer.actors.specs import Seating

_GUARDS = ", ".join(GuardKind)
_HINT = f"write a SPEC, GUARD:MODEL@BASE_URL with a guard of {_GUARDS}, or panel:[JUDGE, JUDGE]"
_TIMES = re.compile(r"([1-9]\d?)\s*\*\s*(.+)", re.DOTALL)
_NEXT = re.compile(
    rf"\s*,\s*(?=(?:[1-9]\d?\s*\*\s*)?(?:(?:{'|'.join([*SpecKind, *GuardKind])}):|(?:embedded|scripted)\s*(?:,|$)))"
)


class OneJudge(Record):
    """One judge: a model with the rubric's prompt, or as the `guard` it is. `str()` gives the SPEC back."""

    spec: Spec
    guard: GuardKind | None = None

    def __str__(self) -> str:
        if self.guard is None:
            return str(self.spec)
        return f"{self.guard}:{str(self.spec).removeprefix('openai:')}"


class PanelOf(Record):
    """A panel's members, each with how often it is asked."""

    members: tuple[tuple[int, OneJudge], ...]

    def __str__(self) -> str:
        items = (f"{times}*{judge}" if times > 1 else str(judge) for times, judge in self.members)
        return f"panel:[{', '.join(items)}]"


def parse_judge_spec(text: str) -> OneJudge | PanelOf:
    """Read a judge's SPEC; raises `ConfigError`.

    >>> str(parse_judge_spec("panel:[scripted, 3*openai:m@http://h/v1, wildguard:w@http://h/v1/]"))
    'panel:[scripted, 3*openai:m@http://h/v1, wildguard:w@http://h/v1]'
    """
    kind, _, rest = text.partition(":")
    if kind != "panel":
        return _one(text)
    if not (rest.startswith("[") and rest.endswith("]") and rest[1:-1].strip()):
        raise ConfigError(f"{text!r} is no panel", where="SPEC", hint="write panel:[JUDGE, JUDGE]")
    members = tuple(_counted(item) for item in _NEXT.split(rest[1:-1].strip()))
    if sum(times for times, _ in members) < 2:
        raise ConfigError("a panel has at least two members", where="SPEC", hint="write panel:[JUDGE, JUDGE]")
    return PanelOf(members=members)


def members_of(text: str) -> tuple[OneJudge, ...]:
    """The judges a SPEC names, a panel's each once; raises `ConfigError`."""
    parsed = parse_judge_spec(text)
    return tuple(judge for _, judge in parsed.members) if isinstance(parsed, PanelOf) else (parsed,)


def addresses(text: str) -> tuple[str, ...]:
    """The base URLs a SPEC names, of a model or of judges.

    >>> addresses("panel:[scripted, 2*openai:m@http://h/v1, wildguard:w@http://g/v1]")
    ('http://h/v1', 'http://g/v1')
    """
    urls = (judge.spec.base_url for judge in members_of(text))
    return tuple(dict.fromkeys(url for url in urls if url is not None))


def judge_print(text: str) -> str:
    """Who judges, for fingerprints: the SPEC, and what stands in the weight files of every folder it names."""
    local = (judge.spec for judge in members_of(text) if judge.spec.kind is SpecKind.LOCAL)
    return " ".join((text, *(model_print(str(spec)) for spec in local)))


def judges(text: str) -> int:
    """How many judges a SPEC asks about each answer.

    >>> judges("scripted"), judges("panel:[scripted, 3*openai:m@http://h/v1]")
    (1, 4)
    """
    parsed = parse_judge_spec(text)
    return sum(times for times, _ in parsed.members) if isinstance(parsed, PanelOf) else 1


def _counted(item: str) -> tuple[int, OneJudge]:
    times = _TIMES.fullmatch(item)
    if times is None:
        return 1, _one(item)
    judge = _one(times[2])
    samples = judge.guard is GuardKind.STRONGREJECT or (
        judge.guard is None and judge.spec.kind is not SpecKind.SCRIPTED
    )
    if int(times[1]) > 1 and not samples:
        raise ConfigError(f"'{judge}' only repeats itself", where="SPEC", hint="name it once")
    return int(times[1]), judge


def _one(text: str) -> OneJudge:
    kind, _, rest = text.partition(":")
    if kind not in list(GuardKind):
        try:
            return OneJudge(spec=parse_spec(text))
        except ConfigError as error:
            hint = error.hint if kind in list(SpecKind) else _HINT
            raise ConfigError(error.what, where=error.where, hint=hint) from None
    guard = GuardKind(kind)
    if rest.partition(":")[0] in list(GuardKind):
        raise ConfigError(f"{text!r} names two guards", where="SPEC", hint=f"write {guard}:MODEL@BASE_URL")
    inner = rest if rest.partition(":")[0] in list(SpecKind) else f"openai:{rest}"
    spec = parse_spec(inner)
    if spec.kind is SpecKind.SCRIPTED or (guard is GuardKind.OPENAI_MODERATION and spec.kind is not SpecKind.OPENAI):
        raise ConfigError(f"'{spec}' cannot be a {guard}", where="SPEC", hint=f"write {guard}:MODEL@BASE_URL")
    return OneJudge(spec=spec, guard=guard)


def seat_judge(text: str, seats: Seating, settings: EvalConfig) -> ScaledJudge:
    """The judge a SPEC names; raises `ConfigError`, and `WeightsError` for a model that cannot be loaded."""
    parsed = parse_judge_spec(text)
    prompts: dict[str, Prompt] = {n: read_prompt(Path(file)) for n, file in settings.judge_prompts.items()}
    if isinstance(parsed, OneJudge):
        return _seat(parsed, seats, JUDGING, prompts)
    repeated = JUDGING.model_copy(update={"temperature": settings.panel.temperature})
    members: list[ScaledJudge] = []
    for times, judge in parsed.members:
        if times == 1:
            members.append(_seat(judge, seats, JUDGING, prompts))
        else:  # asked again at temperature 0 a judge would only repeat itself
            samplings = (repeated.model_copy(update={"seed": number}) for number in range(times))
            members += [_seat(judge, seats, sampling, prompts) for sampling in samplings]
    return Panel(members, rule=PanelRule(settings.panel.rule), quorum=settings.panel.quorum)


def _seat(judge: OneJudge, seats: Seating, sampling: Sampling, prompts: Mapping[str, Prompt]) -> ScaledJudge:
    prompt = prompts.get("rubric" if judge.guard is None else judge.guard)
    if judge.guard is GuardKind.OPENAI_MODERATION:
        return ModerationGuard(seats.moderation(judge.spec))
    if judge.guard is None and judge.spec.kind is SpecKind.SCRIPTED:
        offline: ScaledJudge = seats.offline_judge()
        return offline
    chat = seats.model(str(judge.spec), "judge")
    match judge.guard:
        case None:
            return RubricJudge(chat, sampling=sampling, prompt=prompt)
        case GuardKind.WILDGUARD:
            return WildGuard(chat, prompt=prompt)
        case GuardKind.STRONGREJECT:
            return StrongReject(chat, prompt=prompt, sampling=sampling)
        case _:
            return LlamaGuard(chat, judge.guard)
