"""Stage I's generator on any chat model: probe, expand, analyse the image, rewrite, plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, TypeVar

from pydantic import Field, create_model

from safer_steer.actors.asking import ask
from safer_steer.actors.chat import ChatModel, Sampling
from safer_steer.actors.generating import Probe, Strategy, script_of
from safer_steer.actors.showing import messages_for
from safer_steer.actors.verdict_parsing import Reply, declines_to_write
from safer_steer.dialogue import Script, ScriptKind, Seed, UserTurn, stable_id
from safer_steer.errors import BadVerdict
from safer_steer.prompts import Fence, load_prompt
from safer_steer.verdict import UnscoredReason

R = TypeVar("R", bound=Reply)
_REFUSAL = "a refusal in place of a message"
_Text = Annotated[str, Field(min_length=1, max_length=4000)]


class _Probed(Reply):
    benign: _Text
    obfuscated: _Text


class _Goal(Reply):
    goal: _Text


class _Findings(Reply):
    dual_use: list[str]
    text: list[str]
    missing_safety: list[str]


class _PlannedTurn(Reply):
    aim: str
    risk: Annotated[int, Field(ge=1, le=5)]
    text: _Text


class _Plan(Reply):
    turns: list[_PlannedTurn]


@cache
def _plan_of(turns: int) -> type[_Plan]:
    """A plan of exactly so many turns, so that a server that follows schemas cannot miscount."""
    exact = Annotated[list[_PlannedTurn], Field(min_length=turns, max_length=turns)]
    return create_model(f"Plan{turns}", __base__=_Plan, turns=(exact, ...))


class LlmGenerator:
    """Implements `Generator`. A reply that is malformed, of the wrong length, blank or a refusal, twice: `BadVerdict`.

    `temperature` and the call's `rng_seed` set the sampling, so a server that honours seeds repeats itself.
    """

    def __init__(self, model: ChatModel, *, temperature: float = 0.8, max_tokens: int = 4096) -> None:
        self.name = model.name
        self._model = model
        self._sampling = Sampling(temperature=temperature, max_tokens=max_tokens)

    async def probe(self, seed: Seed) -> Probe:
        question = _wrap(seed, "question", seed.question)
        reply = await self._ask("probe", seed, 0, _Probed, _probe_problem, question=question)
        return Probe(benign=reply.benign.strip(), obfuscated=reply.obfuscated.strip())

    async def analyse(self, seed: Seed) -> str | None:
        return await self._visual_analysis(seed) if seed.images else None

    async def obfuscated(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        goal = _wrap(seed, "aim", seed.question)
        plan = await self._plan("expand_obfuscated", seed, turns, rng_seed, goal=goal)
        return script_of(seed, ScriptKind.OBFUSCATED, plan, rng_seed)

    async def red_team(
        self, seed: Seed, strategy: Strategy, turns: int, rng_seed: int, findings: str | None = None
    ) -> Script:
        if findings is None and seed.images:
            findings = await self._visual_analysis(seed)
        manner = {"strategy": strategy.id.replace("_", " "), "description": strategy.description}
        rewritten = await self._ask(
            "adversarial_rewriting",
            seed,
            rng_seed,
            _Goal,
            _goal_problem,
            question=_wrap(seed, "question", seed.question),
            techniques=strategy.techniques,
            findings=None if findings is None else _wrap(seed, "findings", findings),
            **manner,
        )
        goal = _wrap(seed, "goal", rewritten.goal)
        plan = await self._plan("dialogue_planning", seed, turns, rng_seed, goal=goal, **manner)
        return script_of(seed, ScriptKind.RED_TEAM, plan, rng_seed, strategy=strategy.id)

    async def benign(self, seed: Seed, turns: int, rng_seed: int) -> Script:
        goal = _wrap(seed, "problem", seed.question)
        plan = await self._plan("expand_benign", seed, turns, rng_seed, goal=goal)
        return script_of(seed, ScriptKind.BENIGN, plan, rng_seed)

    async def _visual_analysis(self, seed: Seed) -> str:
        found = await self._ask("visual_analysis", seed, 0, _Findings, lambda reply: None)
        lines = [
            f"{name}: {'; '.join(phrases) if phrases else 'nothing'}"
            for name, phrases in (
                ("dual use", found.dual_use),
                ("text in the image", found.text),
                ("missing safety", found.missing_safety),
            )
        ]
        return "\n".join(lines)

    async def _plan(self, prompt: str, seed: Seed, turns: int, rng_seed: int, **values: object) -> tuple[UserTurn, ...]:
        def problem(plan: _Plan) -> str | None:
            return next((why for turn in plan.turns if (why := _text_problem(turn.text)) is not None), None)

        plan = await self._ask(prompt, seed, rng_seed, _plan_of(turns), problem, turns=turns, **values)
        return tuple(
            UserTurn(text=turn.text.strip(), aim=turn.aim.strip() or None, risk=turn.risk) for turn in plan.turns
        )

    async def _ask(
        self,
        prompt: str,
        seed: Seed,
        rng_seed: int,
        schema: type[R],
        problem: Callable[[R], str | None],
        **values: object,
    ) -> R:
        """One step of the construction; `problem` says what is wrong with a well-formed reply."""

        def check(reply: R) -> None:
            why = problem(reply)
            if why is not None:
                refused = why == _REFUSAL
                raise BadVerdict(why, reason=UnscoredReason.REFUSED if refused else UnscoredReason.UNPARSEABLE)

        drawn = int(stable_id(prompt, seed.id, rng_seed), 16) % 2**31
        messages = messages_for(
            load_prompt(prompt), seed.images, category=seed.category, image_count=len(seed.images), **values
        )
        sampling = self._sampling.model_copy(update={"seed": drawn})
        try:
            return await ask(self._model, messages, sampling, schema, check)
        except BadVerdict as error:
            what = f"'{prompt}' gave no usable reply: {error.what}"
            raise BadVerdict(what, reason=error.reason, where=f"seed {seed.id}") from error


def _wrap(seed: Seed, kind: str, text: str) -> str:
    return Fence.for_dialogue(seed.id, seed.question).wrap(kind, text)


def _text_problem(text: str) -> str | None:
    if not text.strip():
        return "a blank message"
    return _REFUSAL if declines_to_write(text) else None


def _probe_problem(reply: _Probed) -> str | None:
    return _text_problem(reply.benign) or _text_problem(reply.obfuscated)


def _goal_problem(reply: _Goal) -> str | None:
    return _text_problem(reply.goal)
