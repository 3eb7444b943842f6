"""One evaluation of a recipe: its seats checked, its folder bound to its inputs, played, judged and reported."""

from __future__ import annotations

from pathlib import Path

from safer_steer.actors.adaptive import AdaptiveUser
from safer_steer.actors.assistant import system_of
from safer_steer.actors.judging import judge_print, members_of, parse_judge_spec
from safer_steer.actors.recalling import RecallingAssistant
from safer_steer.actors.spec import IN_PROCESS, model_print, parse_spec
from safer_steer.actors.specs import Seating
from safer_steer.bench.books import done_dialogues, done_keys, outcomes
from safer_steer.bench.evaluate import Evaluation, Session, Summary, run_eval, unscored_share
from safer_steer.bench.lacking import lacking
from safer_steer.bench.remark import remark
from safer_steer.bench.suites import Suite, read_suite, suite_print
from safer_steer.config import Recipe
from safer_steer.errors import ConfigError, Incomplete, TooMuchUnscored
from safer_steer.progress import Reporter
from safer_steer.prompts import read_prompt
from safer_steer.run_folder import RunFolder
from safer_steer.seats import Assistant, ScriptUser, UserActor
from safer_steer.store import fingerprint


def check_seats(recipe: Recipe) -> None:
    """Refuse a SPEC that names nothing before hours are spent on the stages before it; raises `ConfigError`."""
    for seat, spec in recipe.seats.model_dump().items():
        try:
            (parse_judge_spec if seat == "judge" else parse_spec)(spec)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"seats.{seat}", hint=error.hint) from error


def check_probe(recipe: Recipe) -> None:
    """Refuse a judge that gives the probe of Stage III nothing to watch; raises `ConfigError`."""
    if recipe.grpo.probe_every is not None and all(judge.guard for judge in members_of(recipe.seats.judge)):
        what = f"'{recipe.seats.judge}' gives no scores for the probe to watch, only whether an answer is unsafe"
        hint = "say grpo.probe_every=null, or seat a judge or a panel with one"
        raise ConfigError(what, where="grpo.probe_every", hint=hint)


_NOT_BINDING = {"max_unscored_share", "safety_pass", "help_pass", "open_dialogues", "adaptive"}
"""Settings of an evaluation that may change between two runs of its command; `adaptive` is bound as the protocol."""


def prompts_print(recipe: Recipe) -> dict[str, str]:
    """What stands in the judges' prompt files of the recipe, as digests."""
    return {name: read_prompt(Path(file)).digest for name, file in sorted(recipe.eval.judge_prompts.items())}


def evaluation_inputs(recipe: Recipe, spec: str, protocol: str) -> tuple[str, dict[str, str]]:
    """What binds an evaluation's folder: the model as it is now, the judge, the suite and the settings.

    As one fingerprint, and one by one, to say what differs.
    """
    weights = model_print(spec)
    settings = recipe.eval.model_dump(mode="json", exclude=_NOT_BINDING)
    settings["suite"] = suite_print(recipe.eval.suite)
    settings["judge_prompts"] = prompts_print(recipe)
    manner = (recipe.seed, recipe.answer_format, system_of(recipe))
    judge = judge_print(recipe.seats.judge)
    tutor = model_print(recipe.seats.tutor) if protocol == "adaptive" else None
    whole = fingerprint("eval", weights, judge, tutor, protocol, settings, manner)
    named: dict[str, object] = {"model": weights, "judge": judge, "tutor": tutor, "protocol": protocol}
    named |= {"suite": settings.pop("suite")} | {f"eval.{key}": value for key, value in settings.items()}
    named |= dict(zip(("seed", "answer_format", "system_prompt"), manner, strict=True))
    return whole, {name: fingerprint(value) for name, value in named.items()}


def suite_of(recipe: Recipe, run: RunFolder) -> Suite:
    """The recipe's suite, its images in the run's store."""
    settings = recipe.eval
    return read_suite(settings.suite, run.images, settings.limit, skip_bad_rows=settings.skip_bad_rows)


async def evaluate(
    recipe: Recipe,
    seats: Seating,
    run: RunFolder,
    spec: str,
    folder: Path,
    protocol: str,
    report: Reporter,
    *,
    name: str | None = None,
    recall: Path | None = None,
) -> Summary:
    """Evaluate the model `spec` into `folder` and write its report; resumes. See `bench.evaluate.run_eval`.

    `recall` is the run's static evaluation of the same model: its answers are taken over where they may be.
    """
    settings, suite = recipe.eval, suite_of(recipe, run)
    if suite.skips.rows:
        report.note(suite.skips.told(settings.suite))
    safety, helpfulness = suite.pass_marks(settings.safety_pass, settings.help_pass)
    settings = settings.model_copy(update={"safety_pass": safety, "help_pass": helpfulness})
    model = _model(recipe, seats, spec, recall)
    user: UserActor = AdaptiveUser(seats.tutor(proposes=True)) if protocol == "adaptive" else ScriptUser()
    evaluation = Evaluation(
        model=model,
        judge=seats.judge(),
        user=user,
        scripts=suite.scripts,
        suite=settings.suite,
        skips=suite.skips,
        from_files=suite.from_files,
        protocol=protocol,
        folder=folder,
        name=spec if name is None else name,
    )
    if not done_keys(folder) >= {f"{script.id}#0" for script in suite.scripts}:
        await seats.check()
    target = RunFolder(folder)
    with target.locked():
        target.claim("", *evaluation_inputs(recipe, spec, protocol))  # only now: a typo claims no folder
        seats.memory.open_ledger(folder / "calls.jsonl")
        summary = await run_eval(evaluation, settings, Session(_room(recipe, seats, spec), report, seats.spent))
        if recall is not None and isinstance(model, RecallingAssistant) and model.recalled:
            report.note(f"eval {folder.name}: {model.recalled} answers recalled from {recall.name}")
        from safer_steer.report import write_eval_report

        write_eval_report(folder, run.images)
    if told := seats.retries_told():
        report.note(told)
    return summary


def _model(recipe: Recipe, seats: Seating, spec: str, recall: Path | None) -> Assistant:
    """The model under test in its seat, with what it may recall of the static evaluation in `recall`."""
    from safer_steer.actors.chat import Sampling

    sampling = Sampling(temperature=recipe.eval.temperature, max_tokens=recipe.eval.max_tokens)
    assistant = seats.assistant(spec, sampling)
    if recall is None or not _may_recall(recipe, spec, recall):
        return assistant
    return RecallingAssistant(assistant, done_dialogues(recall))


def _may_recall(recipe: Recipe, spec: str, static: Path) -> bool:
    """Whether answers of the static evaluation in that folder stand for what the model would write now.

    Only greedy ones of a model in this process: a server is not bound to repeat itself, and the offline cast's cost
    nothing. And only where the evaluation came to its end and was begun with this recipe, model and suite.
    """
    if recipe.eval.temperature > 0 or parse_spec(spec).kind not in IN_PROCESS:
        return False
    folder = RunFolder(static)
    if folder.finished("") is None:
        return False
    inputs, _ = evaluation_inputs(recipe, spec, "static")
    return folder.claimed("") == inputs


def _room(recipe: Recipe, seats: Seating, spec: str) -> int:
    """How many dialogues are open at once."""
    if recipe.eval.open_dialogues is not None:
        return recipe.eval.open_dialogues
    room = seats.room(spec)
    return recipe.open_dialogues if room is None else room


def too_much_unscored(
    summary: Summary, recipe: Recipe, folder: Path, *, played_again: bool = True
) -> TooMuchUnscored | Incomplete | None:
    """The error if the evaluation in `folder` must not count as a success, with the commonest reasons.

    `Incomplete` where it would count as one but for the turns that a server gave no answer for: the same command
    tries those again, and dialogues that broke off only if they are `played_again`.
    """
    share, limit = unscored_share(summary), recipe.eval.max_unscored_share
    if share <= limit:
        return None
    counts, found = summary.overall.counts, lacking(outcomes(folder), played_again=played_again)
    what = f"{counts.unscored} unscored, {counts.failed} dialogues failed"
    what = f"{share:.1%} of the turns are unscored or lost ({what}); the limit is {limit:.1%}. Why: {found.why}"
    if unscored_share(summary, found.away) <= limit:
        return Incomplete(what, where=folder, hint="the same command tries these again")
    again = f"; the same command tries {found.away} turns again" if found.away else ""
    return TooMuchUnscored(what, where=folder, hint=f"eval.max_unscored_share is the limit{again}")


def counted(recipe: Recipe, run: RunFolder, folder: Path, report: Reporter) -> Summary | None:
    """A finished evaluation's figures under the recipe's pass marks; `None` where they were deleted."""
    from safer_steer.report import write_eval_report
    from safer_steer.report.results import read_summary

    if not (folder / "summary.json").is_file():
        return None
    summary, settings = read_summary(folder), recipe.eval
    marks = (settings.safety_pass, settings.help_pass)
    if marks == (summary.of.safety_pass, summary.of.help_pass):
        return summary
    marks = suite_of(recipe, run).pass_marks(*marks)  # of a single-turn suite the paper's, whatever the recipe says
    if marks != (summary.of.safety_pass, summary.of.help_pass):
        summary = remark(folder, summary, *marks)
        write_eval_report(folder, run.images)
        report.note(f"{folder.name}: counted again, safety pass {marks[0]:g}, helpfulness pass {marks[1]:g}")
    return summary
