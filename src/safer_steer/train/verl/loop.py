"""The agent loop: verl asks for one dialogue at a time, this plays the K dialogues of a script together.

All sessions of a prompt run in one process, in one event loop. The first to come plays the whole group through the
same `play_step` as the single-machine engine (so replays, drops, rewards and advantages are the same code), the others
wait for it, and each takes its own dialogue. A group that teaches nothing is dropped by returning no dialogue, for
which verl has a name: an empty output. No tutor's or server's fault gets out of here as an exception.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopBase

from safer_steer.actors.assistant import ChatAssistant, system_of
from safer_steer.actors.chat import Sampling
from safer_steer.actors.followup import FollowUp
from safer_steer.actors.local.tokens import DialogueTokenizer
from safer_steer.actors.specs import Seating
from safer_steer.config import Recipe
from safer_steer.dialogue import Script
from safer_steer.errors import StageError
from safer_steer.image_store import ImageStore
from safer_steer.seats import Cast, Judge, ScriptUser
from safer_steer.train.playing import Played, play_step
from safer_steer.train.trajectory import Trajectory
from safer_steer.train.verl.ledger import Ledger
from safer_steer.train.verl.output import SteerOutput, output_of
from safer_steer.train.verl.plugin import check_registered
from safer_steer.train.verl.student import VerlStudent
from safer_steer.train.verl.tutors import seat_tutors


@dataclass(frozen=True, slots=True)
class Taught:
    """A group as it was played: no trajectories when it was dropped."""

    trajectories: tuple[Trajectory, ...]
    versions: tuple[int, ...]
    seconds: float


class Groups:
    """The groups being played in this process. Each is played once and forgotten when its `size` takers have come."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._playing: dict[str, tuple[asyncio.Task[Taught], list[int]]] = {}

    async def take(self, uid: str, play: Callable[[], Coroutine[Any, Any, Taught]]) -> Taught:
        """The group `uid`, played by its first taker; all takers get the same, or the same exception."""
        if uid not in self._playing:
            self._playing[uid] = (asyncio.ensure_future(play()), [0])
        task, takers = self._playing[uid]
        takers[0] += 1
        if takers[0] == self._size:
            del self._playing[uid]
        return await asyncio.shield(task)


class Room:
    """What the dialogues of this process share: the recipe, the tutor's connections, the template, the ledger."""

    def __init__(self, recipe: Recipe, run: Path, processor: Any, heads: int) -> None:
        check_registered()
        self.recipe = recipe
        self.images = ImageStore(run / "images")
        self.tokens = DialogueTokenizer.of(processor, self.images)
        self.vocabulary = (len(getattr(processor, "tokenizer", processor)), heads)
        self.tutor: Judge
        self.seatings: list[Seating]
        self.tutor, self.seatings = seat_tutors(recipe, self.images)
        self.ledger = Ledger(run / "grpo" / "ledger")
        self.groups = Groups(recipe.grpo.samples)

    def cast(self, server: Any) -> tuple[Cast, VerlStudent]:
        """The people of one group, the student seated at verl's server."""
        config = self.recipe.grpo
        student = VerlStudent(
            server, self.tokens, self.images, vocabulary=self.vocabulary, max_context=config.max_length
        )
        assistant = ChatAssistant(
            student, Sampling(temperature=config.temperature, max_tokens=config.max_tokens),
            answer_format=self.recipe.answer_format, system=system_of(self.recipe), seed=self.recipe.seed,
        )  # fmt: skip
        return Cast(FollowUp() if config.feedback else ScriptUser(), assistant, self.tutor), student

    async def play(self, uid: str, step: int, script: Script, server: Any) -> Taught:
        """Play a script's group, write it down, and return what teaches."""
        cast, student = self.cast(server)
        played: Played = await play_step([script], cast, self.recipe.grpo, step, self.recipe.grpo.samples)
        self.ledger.record(uid, step, played)
        group = played.groups[0] if played.groups else None
        return Taught(() if group is None else group.trajectories, tuple(student.versions), student.seconds)


_ROOMS: dict[str, Room] = {}


def room(recipe_path: str, run: str, processor: Any, heads: int) -> Room:
    """This process's room, made when first asked for: verl makes a new agent loop for every dialogue."""
    found = _ROOMS.get(recipe_path)
    if found is None:
        recipe = Recipe.model_validate_json(Path(recipe_path).read_bytes())
        found = _ROOMS[recipe_path] = Room(recipe, Path(run), processor, heads)
    return found


class SteerAgentLoop(AgentLoopBase):
    """verl's agent loop for tutored dialogues. `recipe` and `run` come from the agent loop's YAML.

    The dataset's column `script` holds the script as JSON; its images lie in the run folder, which every node sees.
    """

    def __init__(self, *, recipe: str, run: str, **verl: Any) -> None:
        super().__init__(**verl)
        self._recipe, self._run = recipe, run

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> SteerOutput | list[SteerOutput]:
        """One dialogue of a script's group; an empty list when the group was dropped.

        Raises `StageError` for what is wrong with the set-up, and lets programming errors out: verl then counts the
        group as failed, and the sampler stops the run when too many are.
        """
        if "script" not in fields or "uid" not in fields or "session_id" not in fields:
            hint = "use the parquet that `safer-steer grpo --engine verl` writes, and verl's V1 trainer"
            raise StageError(f"verl passed {sorted(fields)}, without script, uid or session_id", hint=hint)
        processor = self.processor if self.processor is not None else self.tokenizer
        here = room(self._recipe, self._run, processor, self._heads())
        script = Script.from_json(str(fields["script"]))
        uid, step, session = str(fields["uid"]), int(fields["global_steps"]), int(fields["session_id"])
        taught = await here.groups.take(uid, lambda: here.play(uid, step, script, self.server_manager))
        if not taught.trajectories:
            return []
        trajectory = taught.trajectories[session]
        pictures = [await asyncio.to_thread(here.images.open, ref) for ref in trajectory.images]
        versions = taught.versions or (step - 1,)
        return output_of(trajectory, pictures, versions=versions, seconds=taught.seconds)

    def _heads(self) -> int:
        """How many tokens the student's head scores: more than its tokenizer knows, where the table was padded."""
        path = str(self.config.actor_rollout_ref.model.path)
        if path not in _HEADS:
            config = json.loads((Path(path) / "config.json").read_text())
            _HEADS[path] = int(config.get("text_config", config).get("vocab_size", config.get("vocab_size")))
        return _HEADS[path]


_HEADS: dict[str, int] = {}
