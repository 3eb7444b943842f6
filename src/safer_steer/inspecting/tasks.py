"""Our suites as Inspect tasks: `inspect eval safer_steer/steer -T suite=steer-mini --model PROVIDER/MODEL`.

The dialogue is played by our own loop, so that the last turn is judged, faults stay faults, and nothing unscored
becomes a number. A dialogue whose model fails is an error of its sample, to be governed by Inspect's `--fail-on-error`.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from safer_steer.actors.assistant import ChatAssistant, system_of
from safer_steer.actors.chat import Sampling
from safer_steer.actors.inspect_model import InspectModel
from safer_steer.actors.judge import RubricJudge
from safer_steer.actors.judging import members_of
from safer_steer.actors.specs import Seating
from safer_steer.bench.suites import read_suite
from safer_steer.config import Recipe, load_recipe
from safer_steer.converse import converse
from safer_steer.dialogue import Rollout, Script
from safer_steer.errors import EndpointError
from safer_steer.image_store import ImageStore
from safer_steer.inspecting.shown import messages_of, output_of, scores_of, shower, user_message
from safer_steer.seats import Cast, Judge, ScriptUser

GRADER = "grader"
"""As a judge: the model that Inspect was given for this role (`--model-role grader=PROVIDER/MODEL`)."""

RUBRIC = True
"""Of a judge: that it grades by the rubric, and is no guard."""

_ROLLOUT = "safer_steer_rollout"


class Room:
    """What the samples of a task share: images in a folder of its own, and the judge's seat, made at the first need.

    When no sample is being judged, connections are closed: Inspect does not say when a task is over.
    """

    def __init__(self, recipe: Recipe) -> None:
        folder = Path(tempfile.mkdtemp(prefix="safer-steer-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.recipe, self.images = recipe, ImageStore(folder)
        self._seats: Seating | None = None
        self._playing = 0

    async def play(self, script: Script) -> Rollout:
        """One dialogue of Inspect's active model with the script, judged by the recipe's judge."""
        self._playing += 1
        try:
            return await converse(script, Cast(ScriptUser(), self._assistant(), self._judge()))
        finally:
            self._playing -= 1
            if self._playing == 0 and self._seats is not None:
                await self._seats.hang_up()

    def _assistant(self) -> ChatAssistant:
        model, recipe = get_model(), self.recipe
        return ChatAssistant(
            InspectModel(str(model), self.images.read, model=model),
            Sampling(temperature=recipe.eval.temperature, max_tokens=recipe.eval.max_tokens),
            answer_format=recipe.answer_format,
            system=system_of(recipe),
            seed=recipe.seed,
        )

    def _judge(self) -> Judge:
        if self.recipe.seats.judge == GRADER:
            model = get_model(role=GRADER, required=True)
            return RubricJudge(InspectModel(str(model), self.images.read, model=model))
        if self._seats is None:
            self._seats = Seating(self.recipe, self.images)
        return self._seats.judge()


@task
def steer(
    suite: str = "steer-mini", judge: str = "scripted", max_dialogues: int | None = None, recipe: str | None = None
) -> Task:
    """A suite against a model, static users.

    Args:
        suite: a built-in suite, NAME:PATH, or a STEER-Bench file.
        judge: a SPEC of a judge, guard or panel; or `grader`, Inspect's model for that role.
        max_dialogues: only so many of them.
        recipe: a recipe file, for answer format, system prompt, limits of servers and pass marks.
    """
    settings = load_recipe(None if recipe is None else Path(recipe))
    settings = settings.model_copy(update={"seats": settings.seats.model_copy(update={"judge": judge})})
    room = Room(settings)
    read = read_suite(suite, room.images, max_dialogues)
    safety, helpfulness = read.pass_marks(settings.eval.safety_pass, settings.eval.help_pass)
    picture = shower(room.images.read)
    samples = [
        Sample(
            id=script.id,
            input=[user_message(script.turns[0].text, script.images_at(1), picture)],
            metadata={
                "script": script.to_json(),
                "kind": str(script.kind),
                "category": script.category,
                "strategy": script.strategy,
                "turns": len(script.turns),
            },
        )
        for script in read.scripts
    ]
    return Task(
        dataset=MemoryDataset(samples, name=suite),
        solver=dialogue(room),
        scorer=[made(safety, helpfulness) for made in scorers_for(judge)],
        metadata={"judge": judge, "safety_pass": safety, "help_pass": helpfulness},
    )


def scorers_for(judge: str) -> list[Callable[[float, float], Scorer]]:
    """The scorers of what a judge gives: a rubric's four, a guard's one, or all of a mixed panel's."""
    kinds = {RUBRIC} if judge == GRADER else {member.guard is None for member in members_of(judge)}
    rubric = [safety_pass, helpfulness_pass, mean_safety, mean_helpfulness]
    return [*(rubric if RUBRIC in kinds else []), *([attack_success] if not all(kinds) else [])]


@solver
def dialogue(room: Room) -> Solver:
    """Plays the sample's script with the model, all turns, and has each judged as it is answered."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        rollout = await room.play(Script.from_json(state.metadata["script"]))
        state.messages = messages_of(rollout, shower(room.images.read))
        state.output = output_of(rollout, str(state.model))
        state.store.set(_ROLLOUT, rollout.to_json())
        state.completed = True
        if rollout.fault is not None:
            raise EndpointError(f"the dialogue broke off ({rollout.stop}): {rollout.fault}", where=rollout.key)
        return state

    return solve


def _scorer(name: str, safety: float, helpfulness: float) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        rollout = Rollout.from_json(state.store.get(_ROLLOUT))
        found = scores_of(rollout, safety, helpfulness).get(name)
        return Score.unscored(explanation="this judge does not give it") if found is None else found

    return score


@scorer(metrics=[mean(), stderr()])
def safety_pass(safety: float, helpfulness: float) -> Scorer:
    """1 where the dialogue's mean safety reaches the mark."""
    return _scorer("safety_pass", safety, helpfulness)


@scorer(metrics=[mean(), stderr()])
def helpfulness_pass(safety: float, helpfulness: float) -> Scorer:
    """1 where the dialogue's mean helpfulness reaches the mark."""
    return _scorer("helpfulness_pass", safety, helpfulness)


@scorer(metrics=[mean(), stderr()])
def mean_safety(safety: float, helpfulness: float) -> Scorer:
    """Mean over the dialogue's turns, −3…3."""
    return _scorer("safety", safety, helpfulness)


@scorer(metrics=[mean(), stderr()])
def mean_helpfulness(safety: float, helpfulness: float) -> Scorer:
    """Mean over the dialogue's turns, 0…3."""
    return _scorer("helpfulness", safety, helpfulness)


@scorer(metrics=[mean(), stderr()])
def attack_success(safety: float, helpfulness: float) -> Scorer:
    """1 where a guard calls a turn unsafe; unscored for judges that are none."""
    return _scorer("attack_success", safety, helpfulness)
