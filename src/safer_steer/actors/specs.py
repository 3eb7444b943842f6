"""Who sits where: the `Seating` that builds each seat of a recipe when it is first wanted. For names see `spec`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from safer_steer.actors.assistant import ChatAssistant, system_of
from safer_steer.actors.attack_judge import AttackJudge
from safer_steer.actors.blue import LlmBlue
from safer_steer.actors.chat import ChatModel, Sampling
from safer_steer.actors.endpoint import Endpoint, EndpointModel, ImageFragments
from safer_steer.actors.generating import Generator
from safer_steer.actors.generator_llm import LlmGenerator
from safer_steer.actors.guards import GuardKind
from safer_steer.actors.judging import addresses, seat_judge
from safer_steer.actors.ledger import MeteredModel
from safer_steer.actors.moderation import ModerationModel
from safer_steer.actors.red import LlmRed
from safer_steer.actors.remembering import Memory, RememberingModel, Spending
from safer_steer.actors.replies import ReplyFile
from safer_steer.actors.spec import IN_PROCESS, Spec, SpecKind, parse_spec
from safer_steer.actors.spending import PAID, price_of
from safer_steer.actors.tutor import LlmTutor
from safer_steer.config import Recipe
from safer_steer.dialogue import AnswerFormat
from safer_steer.errors import ConfigError
from safer_steer.image_store import ImageStore
from safer_steer.seats import Assistant, Judge, UserActor

__all__ = ["Models", "Seating", "Spec", "SpecKind", "kept_models", "parse_spec"]

_OFFLINE = "safer_steer.actors.offline"
MORE_OPEN = 64
"""Dialogues kept open beyond a server's slots, so that no slot waits for one."""


Models = dict[Spec, ChatModel]


@asynccontextmanager
async def kept_models() -> AsyncIterator[Models]:
    """Models in this process that outlive the seating that loaded them, for the next one; the block closes them.

    An evaluation that follows another of the same model finds it loaded, and what was read of dialogues kept.
    """
    models: Models = {}
    try:
        yield models
    finally:
        await _close(models)


async def _close(models: Models) -> None:
    """Close and forget them."""
    while models:
        await models.popitem()[1].aclose()


class Seating:
    """Builds the people a recipe names, each when first asked for; one model per SPEC, one `Endpoint` per address.

    Use it as `async with Seating(recipe, run.images) as seats:` inside one event loop; leaving closes everything.
    Every method raises `ConfigError` for a SPEC it cannot seat, and `WeightsError` for a model it cannot load.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: ImageStore,
        *,
        environ: Mapping[str, str] | None = None,
        notify: Callable[[str], None] = lambda text: None,
        kept: Models | None = None,
    ) -> None:
        """Models in this process are taken from `kept` and left there, if it is given."""
        self._recipe, self._images = recipe, images
        self._environ, self._notify = environ, notify
        self._fragments = ImageFragments(images.read)
        self._endpoints: dict[str, Endpoint] = {}
        self._models: Models = {}
        self._kept = kept
        self._seated: dict[tuple[Spec, str], ChatModel] = {}
        self._memory: Memory | None = None
        self._offline: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every model and connection that was opened."""
        self._seated.clear()
        await _close(self._models)
        await self.hang_up()  # of moderation no model stands among those
        self._endpoints.clear()
        self._offline.clear()
        self._fragments.close()
        if self._memory is not None:
            self._memory.close()

    @property
    def memory(self) -> Memory:
        """The replies kept and counted for this run; the recipe's `cache` is opened when it is first wanted."""
        if self._memory is None:
            cache = self._recipe.cache
            file = ReplyFile(Path(cache.folder) / "replies.jsonl") if cache.folder is not None and cache.roles else None
            self._memory = Memory(cache=file, cached=cache.roles, nonce=cache.nonce)
        return self._memory

    def spent(self) -> tuple[Spending, ...]:
        """What the run spent on servers so far, by role and model, at the prices the recipe gives."""
        prices = {str(spec): price_of(self._recipe, spec) for spec in self._models}
        return self.memory.spent({name: price for name, price in prices.items() if price is not None})

    def retries_told(self) -> str | None:
        """How often servers were asked again in this session, by cause; `None` if never."""
        told = []
        for address, endpoint in self._endpoints.items():
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(endpoint.retried.items()))
            if causes:
                told.append(f"{address}: asked again {endpoint.retried.total()} times ({causes})")
        return "; ".join(told) if told else None

    def room(self, text: str) -> int | None:
        """How many dialogues keep the servers of a SPEC busy: their slots and as many more, at most 64 more.

        `None` where nobody is behind one.
        """
        slots = max((self._recipe.limits(address).concurrency for address in addresses(text)), default=None)
        return None if slots is None else slots + min(slots, MORE_OPEN)

    async def hang_up(self) -> None:
        """Close the connections to all servers; a later call opens new ones."""
        for endpoint in self._endpoints.values():
            await endpoint.aclose()

    async def check(self) -> None:
        """See that every server opened so far answers and takes the key; raises `EndpointError`."""
        for endpoint in self._endpoints.values():
            await endpoint.check()

    def model(self, text: str, role: str = "other") -> ChatModel:
        """The chat model of a SPEC, shared by all seats that name it. `scripted` is not one.

        A model behind a server counts and keeps its replies under `role`, the name of a seat.
        """
        spec = parse_spec(text)
        models = self._kept if self._kept is not None and spec.kind in IN_PROCESS else self._models
        if spec not in models:
            models[spec] = self._build(spec)
        if spec.kind not in PAID:
            return models[spec]
        if (spec, role) not in self._seated:
            self._seated[spec, role] = RememberingModel(self._models[spec], str(spec), role, self.memory)
        return self._seated[spec, role]

    def moderation(self, spec: Spec) -> ChatModel:
        """OpenAI's moderation model behind a server, counted and kept as a judge."""
        assert spec.model is not None and spec.base_url is not None  # `judging` lets no other SPEC through
        key = (spec, "moderation")
        if key not in self._seated:
            model = ModerationModel(self.endpoint(spec.base_url), spec.model)
            address = f"{GuardKind.OPENAI_MODERATION}:{spec.model}@{spec.base_url}"
            self._seated[key] = RememberingModel(model, address, "judge", self.memory)
        return self._seated[key]

    def assistant(self, text: str, sampling: Sampling, role: str = "student") -> Assistant:
        """A model under test or a student; `scripted` is the offline blue expert."""
        return self._assistant(text, sampling, role, self._recipe.answer_format, system_of(self._recipe))

    def target(self) -> Assistant:
        """Stage I's fixed target, greedy. It never learns the answers' form: all it writes is judged."""
        recipe = self._recipe
        sampling = Sampling(max_tokens=recipe.construction.target_max_tokens)
        return self._assistant(recipe.seats.target, sampling, "target", AnswerFormat.PLAIN, recipe.system_prompt)

    def _assistant(
        self, text: str, sampling: Sampling, role: str, answer_format: AnswerFormat, system: str | None
    ) -> Assistant:
        if parse_spec(text).kind is SpecKind.SCRIPTED:
            return self._scripted_blue()
        model, seed = self.model(text, role), self._recipe.seed
        return ChatAssistant(model, sampling, answer_format=answer_format, system=system, seed=seed)

    def judge(self) -> Judge:
        """The evaluation judge: a model with the rubric, a guard, or a panel (`judging`)."""
        return seat_judge(self._recipe.seats.judge, self, self._recipe.eval)

    def offline_judge(self) -> Any:
        """The offline cast's evaluation judge."""
        return self._scripted(SpecKind.SCRIPTED, "judge", "OfflineJudge", self._desk)

    def attack_judge(self) -> Judge:
        """The success filter's judge."""
        text = self._recipe.seats.attack_judge
        offline = self._scripted(text, "attack_judge", "OfflineAttackJudge", self._desk)
        return offline if offline is not None else AttackJudge(self.model(text, "attack_judge"))

    def reward_judge(self) -> Judge:
        """Bootstrap's reward model: the tutor's rubric without a proposal."""
        text = self._recipe.seats.reward_judge
        offline = self._scripted(text, "tutor", "OfflineTutor", proposes=False)
        return offline if offline is not None else LlmTutor(self.model(text, "reward_judge"), proposes=False)

    def tutor(self, *, proposes: bool | None = None) -> Judge:
        """The tutor; whether it writes the next user turn is the recipe's Feedback Dynamics unless `proposes` says."""
        text = self._recipe.seats.tutor
        proposes = self._recipe.grpo.feedback if proposes is None else proposes
        offline = self._scripted(text, "tutor", "OfflineTutor", proposes=proposes)
        return offline if offline is not None else LlmTutor(self.model(text, "tutor"), proposes=proposes)

    def red(self) -> UserActor:
        """Bootstrap's red agent."""
        text = self._recipe.seats.red
        offline = self._scripted(text, "red", "OfflineRed")
        return offline if offline is not None else LlmRed(self.model(text, "red"), seed=self._recipe.seed)

    def blue(self) -> Assistant:
        """Bootstrap's blue expert, writing in the student's format."""
        recipe = self._recipe
        if parse_spec(recipe.seats.blue).kind is SpecKind.SCRIPTED:
            if recipe.answer_format is not AnswerFormat.PLAIN:
                hint = "set answer_format to plain, or seats.blue to a model"
                raise ConfigError("the offline blue expert writes plain answers only", where="seats.blue", hint=hint)
            return self._scripted_blue()
        return LlmBlue(self.model(recipe.seats.blue, "blue"), answer_format=recipe.answer_format, seed=recipe.seed)

    def generator(self) -> Generator:
        """Stage I's writer."""
        text = self._recipe.seats.generator
        offline = self._scripted(text, "generator", "OfflineGenerator")
        return offline if offline is not None else LlmGenerator(self.model(text, "generator"))

    def endpoint(self, address: str) -> Endpoint:
        """The one `Endpoint` of a base URL; raises `ConfigError` when its key is missing."""
        if address not in self._endpoints:
            limits = self._recipe.limits(address)
            self._endpoints[address] = Endpoint(address, limits=limits, environ=self._environ)
        return self._endpoints[address]

    def _build(self, spec: Spec) -> ChatModel:
        match spec.kind, spec.model, spec.base_url:
            case SpecKind.OPENAI, str(name), str(address):
                model = EndpointModel(self.endpoint(address), name, self._fragments, notify=self._notify)
                return MeteredModel(model, str(spec))
            case SpecKind.INSPECT, str(name), _:
                inspect = import_module("safer_steer.actors.inspect_model")  # imported only here: an extra
                return MeteredModel(inspect.InspectModel(name, self._images.read), str(spec))
            case SpecKind.LOCAL, str(folder), _:
                return self._load(Path(folder), str(spec))
            case SpecKind.EMBEDDED, _, _:
                student = import_module("safer_steer.embedded.build").ensure_student(notify=self._notify)
                return self._load(student, str(spec))
            case _:
                hint = "name embedded, local:PATH or openai:MODEL@BASE_URL"
                raise ConfigError(f"'{spec}' is a cast, not a model", where="SPEC", hint=hint)

    def _load(self, folder: Path, name: str) -> ChatModel:
        if not folder.is_dir():
            raise ConfigError("no such folder", where=folder, hint="local:PATH names a saved transformers model")
        local = import_module("safer_steer.actors.local")  # imported only here: it brings torch
        model: ChatModel = local.LocalModel.load(folder, self._images, name=name, seed=self._recipe.seed)
        return model

    def _scripted(self, text: str, module: str, name: str, *parts: Callable[[], Any], **settings: object) -> Any | None:
        """The offline actor when `text` is `scripted`; else `None`. Imported only here: its networks take seconds."""
        if parse_spec(text).kind is not SpecKind.SCRIPTED:
            return None
        key = f"{name}{sorted(settings.items())}"
        if key not in self._offline:
            actor = getattr(import_module(f"{_OFFLINE}.{module}"), name)
            self._offline[key] = actor(*(part() for part in parts), **settings)
        return self._offline[key]

    def _desk(self) -> Any:
        """Where both offline judges read: one set of networks."""
        return self._scripted(SpecKind.SCRIPTED, "judge", "Desk")

    def _scripted_blue(self) -> Assistant:
        return cast(Assistant, self._scripted(SpecKind.SCRIPTED, "blue", "OfflineBlue"))
