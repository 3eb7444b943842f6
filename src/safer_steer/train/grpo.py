"""Stage III: tutor-in-the-loop GRPO on one machine. Play K dialogues a script, compare, update, again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from safer_steer.actors.assistant import ChatAssistant, system_of
from safer_steer.actors.chat import Sampling
from safer_steer.actors.followup import FollowUp
from safer_steer.actors.local import LocalModel
from safer_steer.config import Dtype, Recipe
from safer_steer.dialogue import Record, Rollout, Script
from safer_steer.errors import StageError
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.seats import Cast, Judge, ScriptUser
from safer_steer.store import Journal, fingerprint
from safer_steer.train.averaging import TailMean
from safer_steer.train.checkpoint import Checkpoint, journal_until
from safer_steer.train.export import save_merged
from safer_steer.train.memory import announcement
from safer_steer.train.metrics import GrpoStep, describe, table_head, table_row, warnings, without_traces
from safer_steer.train.playing import Played, play_step
from safer_steer.train.policy import Policy
from safer_steer.train.rates import rate_share, set_rate
from safer_steer.train.schedule import scripts_of_step, shortened
from safer_steer.train.update import Updater
from safer_steer.train.watching import MeteredJudge, hold_out, is_probed, probe
from safer_steer.weights import weights_print

STAGE = "grpo"


class Transcript(Record):
    """One line of `rollouts.jsonl`: a dialogue of step `step`, to be read."""

    step: int
    rollout: Rollout


async def grpo(
    recipe: Recipe,
    run: RunFolder,
    model_path: Path,
    *,
    scripts: Iterable[Script],
    tutor: Judge,
    report: Reporter,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Train the model in `model_path` on `scripts` against `tutor`; the result is `grpo/model`. Resumes.

    `judge` reads the student's answers to held-out scripts every `grpo.probe_every` steps. Returns the counts, at
    once if the stage is done. Raises `StageError` when there is nothing to play, no step has a group to learn from,
    or not one of a step's dialogues was scored to its end (the step is not counted as done), `StorageError`,
    `WeightsError`.
    """
    pool = [shortened(script, recipe.grpo.max_turns) for script in scripts]
    if not pool:
        raise StageError("there are no scripts to play", where=STAGE, hint="run bootstrap first")
    people = (tutor.stamp.model_dump(), weights_print(model_path))
    run.claim(STAGE, fingerprint(STAGE, _settings(recipe), sorted(s.to_json() for s in pool), people))
    done = run.finished(STAGE)
    if done is not None:
        return done
    report.note(f"{STAGE}: {announcement(model_path, recipe.grpo, recipe.open_dialogues)}")
    policy = Policy.load(model_path, recipe.grpo, seed=recipe.seed)
    probed = recipe.grpo.probe_every is not None and judge is not None
    share, count = recipe.grpo.benign_share, recipe.grpo.probe_scripts
    pool, held = hold_out(pool, count, share, recipe.seed) if probed else (pool, [])
    if probed and not held:
        report.note(f"{STAGE}: no whole seed can be spared from training, so nothing is held out and nothing probed")
    trainer = Trainer(recipe, run, policy, tutor, pool, report, held=held, judge=judge)
    try:
        steps = await trainer.run()
    finally:
        await trainer.student.aclose()
    if not any(step.groups for step in steps):
        hint = (
            "look at the tutor's verdicts in grpo/rollouts.jsonl; "
            f"or raise grpo.samples or grpo.temperature and delete {run.root / STAGE}"
        )
        raise StageError("no group ever had anything to teach", where=STAGE, hint=hint)
    save_merged(policy, run.stage(STAGE) / "model")
    result = summary(steps)
    run.finish(STAGE, result)
    return result


def _settings(recipe: Recipe) -> tuple[object, ...]:
    """What the result depends on: not how often it is written down."""
    dumped = recipe.grpo.model_dump(mode="json", exclude={"checkpoint_every", "transcripts_per_step", "tutor_price"})
    return recipe.seed, recipe.answer_format, system_of(recipe), dumped


class Trainer:
    """One run of GRPO: the student it plays and updates, and the journals it writes."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        policy: Policy,
        tutor: Judge,
        scripts: Sequence[Script],
        report: Reporter,
        *,
        held: Sequence[Script] = (),
        judge: Judge | None = None,
    ) -> None:
        config = recipe.grpo
        self._recipe, self._config = recipe, config
        self._scripts, self._report, self._policy = scripts, report, policy
        self._folder, self._held, self._judge = run.stage(STAGE), held, judge
        self.student = LocalModel(
            policy.model, policy.processor, name="student", images=run.images,
            max_batch=recipe.open_dialogues, seed=recipe.seed, pack=config.dtype is Dtype.FLOAT32,
        )  # fmt: skip
        assistant, self._quiet = (
            ChatAssistant(
                self.student, Sampling(temperature=temperature, max_tokens=config.max_tokens),
                answer_format=recipe.answer_format, system=system_of(recipe), seed=recipe.seed,
            )
            for temperature in (config.temperature, 0.0)
        )  # fmt: skip
        self._tutor = MeteredJudge(tutor, config.tutor_price)
        self._cast = Cast(FollowUp() if config.feedback else ScriptUser(), assistant, self._tutor)
        self._optimizer = torch.optim.AdamW(
            policy.trainable.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._update = Updater(policy, self._optimizer, self.student.tokens, self.student.banned, config)

    async def run(self) -> list[GrpoStep]:
        """Every step that is still to do; returns the metrics of all steps, those before a restart included."""
        checkpoint = Checkpoint(self._folder / "checkpoint" / "state.pt")
        mean = TailMean(self._config.steps, self._config.average_last)
        start = checkpoint.restore(self._policy, self._optimizer, mean)
        metrics = journal_until(self._folder / "metrics.jsonl", GrpoStep, start, lambda line: line.step)
        transcripts = journal_until(
            self._folder / "rollouts.jsonl", Transcript, start, lambda line: line.step, lambda line: line.rollout.key
        )
        steps, warned = list(metrics), set[str]()
        with metrics, transcripts, self._report.stage(STAGE, self._config.steps - start):
            self._report.note(table_head())
            for step in range(start + 1, self._config.steps + 1):
                line = await self._step(step, transcripts)
                mean.add(step, self._policy)
                metrics.append(line)
                steps.append(line)
                if step % self._config.checkpoint_every == 0 or step == self._config.steps:
                    checkpoint.save(step, self._policy, self._optimizer, mean)
                for warning in warnings(steps):
                    if warning not in warned:
                        self._report.note(f"grpo step {step}: {warning}")
                        warned.add(warning)
                self._report.note(table_row(line))
                self._report.advance(**_facts(line))
        mean.put(self._policy)
        return steps

    async def _step(self, step: int, transcripts: Journal[Transcript]) -> GrpoStep:
        config, began = self._config, time.monotonic()
        scripts = scripts_of_step(self._scripts, step, config.seeds_per_step, config.benign_share, self._recipe.seed)
        rate = config.learning_rate * (rate_share(step, config.steps, 0.0) if config.decay else 1.0)
        set_rate(self._optimizer, rate)
        played = await play_step(scripts, self._cast, config, step, self._recipe.open_dialogues)
        if played.outage is not None:  # before anything is written: with the tutor back, the step is played again
            problem = f"step {step}: no dialogue was scored to its end, such as {played.outage}"
            hint = "see that the tutor answers, and in its form; the same command goes on from the last checkpoint"
            raise StageError(problem, where=STAGE, hint=hint)
        seconds = time.monotonic() - began
        for rollout in spread(played.rollouts, config.transcripts_per_step):
            transcripts.append(Transcript(step=step, rollout=without_traces(rollout)))
        probed = await self._probe(step)
        began = time.monotonic()
        learned = self._learn(played)
        update_seconds = time.monotonic() - began
        values = describe(step, played, config)
        bill = self._tutor.bill()
        return GrpoStep(
            **values,
            **learned,
            **probed,
            learning_rate=rate,
            tutor_seconds=bill.seconds,
            tutor_prompt_tokens=bill.prompt_tokens,
            tutor_completion_tokens=bill.completion_tokens,
            tutor_uncounted=bill.uncounted,
            tutor_cost=bill.cost,
            rollout_seconds=round(seconds, 3),
            update_seconds=round(update_seconds, 3),
            tokens_per_second=_rate(values["answer_tokens"], values["turns"], seconds),
        )

    async def _probe(self, step: int) -> dict[str, Any]:
        """What the evaluation judge says of the student that played the step, before the update, on steps that ask."""
        every = self._config.probe_every
        if self._judge is None or every is None or not self._held or not is_probed(step, every):
            return {}
        seen = await probe(self._held, self._quiet, self._judge, self._recipe.open_dialogues)
        return {
            "held_out_safety": seen.safety,
            "held_out_helpfulness": seen.helpfulness,
            "held_out_unscored": seen.unscored,
        }

    def _learn(self, played: Played) -> dict[str, Any]:
        """Update on the groups, if there are any; what the step's metrics say of it."""
        if not played.groups:
            return {}
        with self.student.exclusive():
            done = self._update(played.groups)
            self._optimizer.zero_grad(set_to_none=True)  # their memory is for keys and values now
        return {
            "loss": done.loss,
            "grad_norm": done.grad_norm,
            "kl": done.kl,
            "clipped": done.clipped,
            "drift": done.drift,
            "trained_tokens": done.tokens,
        }


def _rate(tokens: float | None, turns: int, seconds: float) -> float:
    """Tokens per second of `turns` answers of so many tokens in the mean; 0 when none was written."""
    return 0.0 if tokens is None else round(tokens * turns / seconds, 1)


def spread(rollouts: Sequence[Rollout], count: int) -> list[Rollout]:
    """At most `count` of the rollouts, at even distances from the first on."""
    kept = min(count, len(rollouts))
    return [rollouts[place * len(rollouts) // kept] for place in range(kept)]


def _facts(line: GrpoStep) -> dict[str, Any]:
    """What the progress bar shows."""
    shown = {"reward": line.reward, "safety": line.unsafe_safety, "kl": line.kl, "over-refusal": line.over_refusal}
    return {name: value for name, value in shown.items() if value is not None}


def summary(steps: Sequence[GrpoStep]) -> dict[str, Any]:
    """Counts and the ends of the reward curve, for `stage.json`."""
    dropped: dict[str, int] = {}
    for step in steps:
        for reason, number in step.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    rewards = [step.reward for step in steps if step.reward is not None]
    ends = max(1, len(rewards) // 4)
    return {
        "steps": len(steps),
        "dialogues": sum(step.dialogues for step in steps),
        "turns": sum(step.turns for step in steps),
        "unscored": sum(step.unscored for step in steps),
        "format_failures": sum(step.format_failures for step in steps),
        "groups": sum(step.groups for step in steps),
        "dropped": dropped,
        "tutor_prompt_tokens": sum(step.tutor_prompt_tokens for step in steps),
        "tutor_completion_tokens": sum(step.tutor_completion_tokens for step in steps),
        "tutor_uncounted": sum(step.tutor_uncounted for step in steps),
        "tutor_cost": sum(costs) if (costs := [s.tutor_cost for s in steps if s.tutor_cost is not None]) else None,
        "replays": sum(step.replays for step in steps),
        "reward_first_quarter": fmean(rewards[:ends]) if rewards else None,
        "reward_last_quarter": fmean(rewards[-ends:]) if rewards else None,
        "rollout_seconds": round(sum(step.rollout_seconds for step in steps), 1),
        "update_seconds": round(sum(step.update_seconds for step in steps), 1),
        "warnings": warnings(steps),
    }
