"""One evaluation of a recipe: its seats checked, its folder bound to its inputs, played, judged and reported."""

from __future__ import annotations

from pathlib import Path

from safer_steer.actors.adaptive import AdaptiveUser
from safer_steer.actors.judging import parse_judge_spec
from safer_steer.actors.spec import model_print, parse_spec
from safer_steer.actors.specs import Seating
from safer_steer.bench.books import done_keys, outcomes
from safer_steer.bench.evaluate import Evaluation, Session, Summary, run_eval, unscored_share
from safer_steer.bench.lacking import lacking
from safer_steer.bench.suites import read_suite, suite_print
from safer_steer.config import Recipe
from safer_steer.errors import ConfigError, Incomplete, TooMuchUnscored
from safer_steer.progress import Reporter
from safer_steer.prompts import read_prompt
from safer_steer.run_folder import RunFolder
from safer_steer.seats import ScriptUser, UserActor
from safer_steer.store import fingerprint


def check_seats(recipe: Recipe) -> None:
    """Refuse a SPEC that names nothing before hours are spent on the stages before it; raises `ConfigError`."""
    for seat, spec in recipe.seats.model_dump().items():
        try:
            (parse_judge_spec if seat == "judge" else parse_spec)(spec)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"seats.{seat}", hint=error.hint) from error


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
    manner = (recipe.seed, recipe.answer_format, recipe.system_prompt)
    tutor = recipe.seats.tutor if protocol == "adaptive" else None
    whole = fingerprint("eval", weights, recipe.seats.judge, tutor, protocol, settings, manner)
    named: dict[str, object] = {"model": weights, "judge": recipe.seats.judge, "tutor": tutor, "protocol": protocol}
    named |= {"suite": settings.pop("suite")} | {f"eval.{key}": value for key, value in settings.items()}
    named |= {key: getattr(recipe, key) for key in ("seed", "answer_format", "system_prompt")}
    return whole, {name: fingerprint(value) for name, value in named.items()}


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
) -> Summary:
    """Evaluate the model `spec` into `folder` and write its report; resumes. See `bench.evaluate.run_eval`."""
    from safer_steer.actors.chat import Sampling

    settings = recipe.eval
    suite = read_suite(settings.suite, run.images, settings.limit, skip_bad_rows=settings.skip_bad_rows)
    if suite.skips.rows:
        report.note(suite.skips.told(settings.suite))
    safety, helpfulness = suite.pass_marks(settings.safety_pass, settings.help_pass)
    settings = settings.model_copy(update={"safety_pass": safety, "help_pass": helpfulness})
    sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens)
    user: UserActor = AdaptiveUser(seats.tutor(proposes=True)) if protocol == "adaptive" else ScriptUser()
    evaluation = Evaluation(
        model=seats.assistant(spec, sampling),
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
        from safer_steer.report import write_eval_report

        write_eval_report(folder, run.images)
    if told := seats.retries_told():
        report.note(told)
    return summary


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
