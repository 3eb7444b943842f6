"""Stage I's writing: ask the generator for what was ordered, check what comes back, perturb a share of the images."""

from __future__ import annotations

from collections.abc import Mapping

from safer_steer.actors.generating import Generator, Strategy
from safer_steer.config import ConstructConfig
from safer_steer.construct.perturb import perturb_ref
from safer_steer.construct.plan import Order, draw
from safer_steer.construct.records import Analysed, Failure, Probed, Reason, Written
from safer_steer.dialogue import ImageRef, Script, ScriptKind, Seed, SeedKind
from safer_steer.errors import ActorError, BadVerdict, EndpointError
from safer_steer.image_store import ImageStore
from safer_steer.verdict import UnscoredReason


class Writer:
    """Fills orders. A generator that fails, or replies with something else than was ordered, is a state."""

    def __init__(
        self, config: ConstructConfig, generator: Generator, strategies: Mapping[str, Strategy], images: ImageStore
    ) -> None:
        self._config, self._generator, self._strategies, self._images = config, generator, strategies, images

    async def probe(self, seed: Seed) -> Probed:
        """Decompose a harmful seed's intent into a benign and an obfuscated rewrite."""
        try:
            return Probed(seed_id=seed.id, probe=await self._generator.probe(seed))
        except ActorError as error:
            return Probed(seed_id=seed.id, failure=_failure(error))

    async def analyse(self, seed: Seed) -> Analysed:
        """What the images of a harmful seed offer an attack."""
        try:
            return Analysed(seed_id=seed.id, findings=await self._generator.analyse(seed))
        except ActorError as error:
            return Analysed(seed_id=seed.id, failure=_failure(error))

    async def write(self, order: Order, probed: Probed | None, analysed: Analysed | None = None) -> Written:
        """Fill one order; `probed` and `analysed` are what came of its seed, where it was probed and analysed."""
        script, failure = await self._ask(order, probed, analysed)
        if script is not None:
            problem = mismatch(order, script)
            if problem is None:
                script = self._finished(order, script)
            else:
                script, failure = None, Failure(reason=Reason.MALFORMED, detail=problem)
        return Written(
            key=order.key,
            seed_id=order.seed.id,
            kind=order.kind,
            strategy=order.strategy,
            split=order.seed.split,
            script=script,
            failure=failure,
        )

    async def _ask(
        self, order: Order, probed: Probed | None, analysed: Analysed | None
    ) -> tuple[Script | None, Failure | None]:
        before = probed if order.strategy is None else analysed
        if before is not None and before.failure is not None:
            return None, before.failure
        seed = rewritten(order, probed)
        try:
            if order.strategy is not None:
                strategy, findings = self._strategies[order.strategy], None if analysed is None else analysed.findings
                return await self._generator.red_team(seed, strategy, order.turns, order.rng_seed, findings), None
            ask = self._generator.benign if order.kind is ScriptKind.BENIGN else self._generator.obfuscated
            return await ask(seed, order.turns, order.rng_seed), None
        except ActorError as error:
            return None, _failure(error)

    def _finished(self, order: Order, script: Script) -> Script:
        """The script as it goes on: with the seed's split, the question it really pursues, and its own images."""
        images = tuple(self._image(order, number, ref) for number, ref in enumerate(script.images))
        question = script.question if order.kind is ScriptKind.BENIGN else order.seed.question
        return script.model_copy(update={"split": order.seed.split, "images": images, "question": question})

    def _image(self, order: Order, number: int, ref: ImageRef) -> ImageRef:
        lot = draw(order.rng_seed, "perturb", number)
        if lot >= self._config.perturb_share * 2**31:
            return ref
        return perturb_ref(self._images, ref, sigma=self._config.noise_sigma, seed=lot)


def rewritten(order: Order, probed: Probed | None) -> Seed:
    """The seed to write from. Benign and obfuscated scripts of a harmful seed start from its rewrites."""
    if order.strategy is not None or probed is None or probed.probe is None:
        return order.seed
    if order.kind is ScriptKind.BENIGN:
        return order.seed.model_copy(update={"question": probed.probe.benign, "kind": SeedKind.BENIGN})
    return order.seed.model_copy(update={"question": probed.probe.obfuscated})


def mismatch(order: Order, script: Script) -> str | None:
    """Say in what the script is not what was ordered, or `None`."""
    if (script.seed_id, script.kind, script.strategy) != (order.seed.id, order.kind, order.strategy):
        return f"ordered {order.kind} {order.strategy} of {order.seed.id}, got {script.kind} {script.strategy}"
    if script.images != order.seed.images:
        return "the script's images are not its seed's"
    if len(script.turns) != order.turns:
        return f"ordered {order.turns} turns, got {len(script.turns)}"
    blank = next((number for number, turn in enumerate(script.turns, 1) if not turn.text.strip()), None)
    return None if blank is None else f"turn {blank} is blank"


def _failure(error: ActorError) -> Failure:
    match error:
        case EndpointError():
            reason = Reason.GENERATOR_UNREACHABLE
        case BadVerdict() if error.reason is UnscoredReason.REFUSED:
            reason = Reason.GENERATOR_REFUSED
        case BadVerdict():
            reason = Reason.MALFORMED
        case _:
            reason = Reason.GENERATOR_FAULT
    return Failure(reason=reason, detail=str(error))
