"""The stages of a run, in order, each resumable on its own: construct → bootstrap → sft → grpo → eval → report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safer_steer.actors.spec import SpecKind, parse_spec
from safer_steer.actors.specs import Models, Seating, kept_models
from safer_steer.asked import stage_print, whole_print
from safer_steer.bench.books import outcomes, same_images
from safer_steer.bench.suites import check_suite, from_files
from safer_steer.bootstrap import bootstrap, scripts_for
from safer_steer.config import Recipe, Start
from safer_steer.construct.stage import construct
from safer_steer.dialogue import Script
from safer_steer.errors import Incomplete, StageError, TooMuchUnscored
from safer_steer.evaluating import (
    check_probe,
    check_seats,
    counted,
    evaluate,
    evaluation_inputs,
    suite_of,
    too_much_unscored,
)
from safer_steer.measured import measure, release_memory
from safer_steer.progress import Reporter
from safer_steer.run_folder import RunFolder
from safer_steer.seeds import Loaded, load_seeds
from safer_steer.store import read_records, write_atomic

__all__ = [
    "MODELS",
    "PROTOCOLS",
    "STAGES",
    "Pipeline",
    "check_probe",
    "check_seats",
    "evaluate",
    "evaluation_inputs",
    "too_much_unscored",
]

STAGES = ("construct", "bootstrap", "sft", "grpo", "eval", "report")
MODELS = ("base", "sft", "safer_steer")
PROTOCOLS = ("static", "adaptive")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One run: a recipe, a folder, and somebody to tell about the progress."""

    recipe: Recipe
    run: RunFolder
    report: Reporter

    def seeds(self) -> Loaded:
        """The recipe's seeds, their images in the run's store."""
        settings = self.recipe.construction
        loaded = load_seeds(settings.seeds, self.run.images, skip_bad_rows=settings.skip_bad_rows)
        if loaded.skips.rows:
            self.report.note(loaded.skips.told("seeds"))
        return loaded

    async def everything(self) -> None:
        """All stages in order; finished ones are passed over. What can be wrong with the last is checked first."""
        inputs = whole_print(self.recipe)
        if self._all_done(inputs):
            self.report.note(f"everything is already done; report: {self.run.root / 'report.html'}")
            return
        settings = self.recipe.eval
        check_suite(settings.suite, settings.limit, skip_bad_rows=settings.skip_bad_rows)
        await self.construct()
        await self.bootstrap()
        await self.sft()
        await self.grpo()
        try:
            await self.evaluate_all()
        except (TooMuchUnscored, Incomplete):
            self.write_report()  # of what there is: it says what is missing
            raise
        self.write_report()
        self.run.finish("", {"inputs": inputs})

    def _all_done(self, inputs: str) -> bool:
        """Whether this very run was finished before, and nothing of it was deleted since.

        Seeds and images of the user's own may have changed: then every stage looks for itself.
        """
        whole = self.run.finished("")
        if whole is None or whole.get("inputs") != inputs or not (self.run.root / "report.html").is_file():
            return False
        if any(source.path is not None for source in self.recipe.construction.seeds):
            return False
        if from_files(self.recipe.eval.suite):
            return False
        if not all(self.model_folder(stage).is_dir() for stage in ("sft", "grpo")):
            return False
        evaluations = [f"eval/{model}-{protocol}" for model in MODELS for protocol in PROTOCOLS]
        stages = ("construct", "bootstrap", "sft", "grpo", *evaluations)
        return all(self.run.finished(stage) is not None for stage in stages)

    async def construct(self) -> dict[str, Any]:
        """Stage I: seeds to scripts."""

        async def work(seats: Seating) -> dict[str, Any]:
            loaded = self.seeds()
            result = await construct(
                self.recipe,
                self.run,
                seeds=loaded.seeds,
                generator=seats.generator(),
                target=seats.target(),
                attack_judge=seats.attack_judge(),
                report=self.report,
            )
            return {**result, "skipped_rows": loaded.skips.model_dump(mode="json")}

        return await self._staged("construct", work)

    async def bootstrap(self) -> dict[str, Any]:
        """Stage II, the dialogues: red against blue, filtered by the reward judge."""
        self._after("construct")

        async def work(seats: Seating) -> dict[str, Any]:
            return await bootstrap(
                self.recipe,
                self.run,
                scripts=scripts_for(self.recipe, self.run),
                red=seats.red(),
                blue=seats.blue(),
                reward_judge=seats.reward_judge(),
                report=self.report,
            )

        return await self._staged("bootstrap", work)

    async def sft(self) -> dict[str, Any]:
        """Stage II, the training: the student learns the kept dialogues."""
        self._after("bootstrap")
        from safer_steer.train.sft import run_sft  # only here: it brings torch

        async def work(seats: Seating) -> dict[str, Any]:
            return run_sft(self.recipe, self.run, model_path=self._student_folder(), report=self.report)

        return await self._staged("sft", work)

    async def grpo(self) -> dict[str, Any]:
        """Stage III: GRPO against the tutor, from the fine-tuned student (or the base one: the ablation)."""
        self._after("sft" if self.recipe.grpo.start is Start.SFT else "bootstrap")
        from safer_steer.train.grpo import grpo

        async def work(seats: Seating) -> dict[str, Any]:
            tutor = seats.tutor()
            judge = seats.judge() if self.recipe.grpo.probe_every is not None else None
            if self.run.finished("grpo") is None:
                await seats.check()
            return await grpo(
                self.recipe,
                self.run,
                model_path=self.grpo_start(),
                scripts=tuple(read_records(self.run.root / "bootstrap" / "rl.jsonl", Script)),
                tutor=tutor,
                report=self.report,
                judge=judge,
            )

        return await self._staged("grpo", work)

    def grpo_start(self) -> Path:
        """The model that Stage III begins with."""
        return self.model_folder("sft") if self.recipe.grpo.start is Start.SFT else self._student_folder()

    def model_folder(self, stage: str) -> Path:
        """Where `sft` or `grpo` left its model."""
        return self.run.root / stage / "model"

    def _student_folder(self) -> Path:
        spec = parse_spec(self.recipe.seats.student)
        if spec.kind is SpecKind.LOCAL and spec.model is not None:
            return Path(spec.model)
        if spec.kind is SpecKind.EMBEDDED:
            from safer_steer.embedded.build import ensure_student

            return ensure_student(notify=self.report.note)
        raise StageError(f"the student '{spec}' cannot be trained here", hint="use embedded or local:PATH")

    def model_spec(self, model: str) -> str:
        """The SPEC of `base`, `sft` or `safer_steer` in this run."""
        stage = {"base": None, "sft": "sft", "safer_steer": "grpo"}[model]
        return self.recipe.seats.student if stage is None else f"local:{self.model_folder(stage)}"

    async def evaluate_all(self) -> None:
        """Base, SFT and SaFeR-Steer on the recipe's suite, static and adaptive.

        One of which too much is unscored stays open, and the others go on; then `TooMuchUnscored` is raised, or
        `Incomplete` where nothing but answers of servers is wanting.
        """
        self._after("grpo")
        lacking: dict[str, StageError] = {}
        scripts = suite_of(self.recipe, self.run).scripts if from_files(self.recipe.eval.suite) else ()
        for model in MODELS:
            async with kept_models() as kept:
                for protocol in PROTOCOLS:
                    name = f"{model}-{protocol}"
                    try:
                        await self._staged(f"eval/{name}", self._evaluation(model, protocol, scripts), kept)
                    except (TooMuchUnscored, Incomplete) as error:
                        self.report.note(f"eval/{name}: {error.what}")
                        lacking[name] = error
            release_memory()
        if lacking:
            kind = Incomplete if all(isinstance(error, Incomplete) for error in lacking.values()) else TooMuchUnscored
            hint = next(error.hint for error in lacking.values() if isinstance(error, kind))
            told = "; ".join(f"{name}: {error.what}" for name, error in lacking.items())
            raise kind(told, where=self.run.root / "eval", hint=hint)

    def _evaluation(
        self, model: str, protocol: str, scripts: Sequence[Script]
    ) -> Callable[[Seating], Awaitable[dict[str, Any]]]:
        """One evaluation of the run; a finished one must have been played with the images of `scripts`, if any.

        An adaptive one may recall what the static one of the model, played before it, wrote.
        """

        async def work(seats: Seating) -> dict[str, Any]:
            folder = self.run.root / "eval" / f"{model}-{protocol}"
            name = f"{model}-{protocol}"
            spec = self.model_spec(model)
            self.run.claim(f"eval/{name}", *evaluation_inputs(self.recipe, spec, protocol))
            done = self.run.finished(f"eval/{name}")
            if done is not None and scripts:
                look = same_images(scripts, folder)
                for rollout in outcomes(folder):
                    look(rollout)
            summary = None if done is None else counted(self.recipe, self.run, folder, self.report)
            if done is None or summary is None or too_much_unscored(summary, self.recipe, folder):
                done = None
                self.run.reopen(f"eval/{name}")
                static = folder.with_name(f"{model}-static") if protocol == "adaptive" else None
                summary = await evaluate(
                    self.recipe, seats, self.run, spec, folder, protocol, self.report, name=model, recall=static
                )
            if problem := too_much_unscored(summary, self.recipe, folder):
                raise problem
            return summary.overall.counts.model_dump() if done is None else done

        return work

    def write_report(self) -> Path:
        """`report.html` and `summary.json` at the run's root."""
        from safer_steer.report import write_run_report

        path = write_run_report(self.run, recipe=self.recipe)
        self.report.note(f"report: {path}")
        return path

    def _after(self, stage: str) -> None:
        if self.run.finished(stage) is None:
            hint = f"run `safer-steer {stage}` with the same --out first"
            raise StageError(f"the stage '{stage}' is not finished", where=self.run.root / stage, hint=hint)

    async def _staged(
        self, name: str, work: Callable[[Seating], Awaitable[dict[str, Any]]], kept: Models | None = None
    ) -> dict[str, Any]:
        """Run a stage measured and with its own seats (and `kept` models); add time and memory to what it recorded.

        One that was finished for the very same recipe and files is passed over before anybody is seated.
        """
        with self.run.locked():
            asked = stage_print(self.recipe, self.run, name)
            done = self.run.finished(name)
            if done is not None and asked is not None and self.run.finished(f"{name}/asked") == {"print": asked}:
                self.report.note(f"{name}: already done")
                return done
            result = await self._measured(name, work, kept)
            if asked is not None:
                self.run.finish(f"{name}/asked", {"print": asked})
            return result

    async def _measured(
        self, name: str, work: Callable[[Seating], Awaitable[dict[str, Any]]], kept: Models | None
    ) -> dict[str, Any]:
        before = self.run.finished(name)
        with measure() as measured, self.run.noting(name, measured.figures):
            async with Seating(self.recipe, self.run.images, notify=self.report.note, kept=kept) as seats:
                result = await work(seats)
        release_memory()
        if before is not None and self.run.finished(name) == before:  # not one that was opened again
            self.report.note(f"{name}: already done")
            return before
        result = {**result, **measured.figures()}
        settings = yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(self.run.root / "recipe.yaml", settings)  # what `safer-steer report` names the run by
        self.run.finish(name, result)
        figures = measured.figures()
        self.report.note(f"{name}: {figures['seconds']:.1f} s, peak memory {figures['peak_mb']} MB")
        return result
