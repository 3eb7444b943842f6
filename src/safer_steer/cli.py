"""The command `safer-steer`. Exit codes: 0 done · 1 something failed, said in one message · 2 wrong usage ·
3 evaluated, but too much is unscored · 4 stopped at the recipe's budget · 5 incomplete, a server was away ·
130 interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from safer_steer import __version__, cli_report
from safer_steer.config import Recipe, load_recipe
from safer_steer.errors import BudgetSpent, ConfigError, Incomplete, SaferSteerError, TooMuchUnscored
from safer_steer.progress import reporter
from safer_steer.store import RunFolder

if TYPE_CHECKING:
    from safer_steer.bench.evaluate import Summary

EXIT_CODES: dict[type[SaferSteerError], int] = {TooMuchUnscored: 3, BudgetSpent: 4, Incomplete: 5}

RECIPES = Path(__file__).parent / "recipes"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Multi-turn safety alignment of vision-language models: build dialogues, train on them, judge every turn.",
)

RecipeOption = Annotated[Path | None, typer.Option("--recipe", "-r", help="A recipe YAML; default: the demo's.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The run folder.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override, as section.key=value.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would run and cost; do nothing.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows that are wrong, and count them; default: stop.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where the folder stands; --no-resume insists on a new one.")
]

EngineOption = Annotated[str, typer.Option("--engine", help="local: this machine; verl: the recipe's cluster.")]


def _recipe(path: Path | None, overrides: list[str] | None) -> Recipe:
    return load_recipe(RECIPES / "demo.yaml" if path is None else path, [] if overrides is None else overrides)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None


def _folder(out: Path, resume: bool) -> RunFolder:
    if out.exists() and not out.is_dir():
        raise ConfigError("is not a folder", where=out, hint="choose another --out")
    if not resume and out.exists() and any(out.iterdir()):
        raise ConfigError("the folder is not empty", where=out, hint="drop --no-resume to go on with it")
    return RunFolder(out)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"safer-steer {__version__}")
        raise typer.Exit


def _stage(name: str, recipe: Path | None, out: Path, overrides: list[str] | None, dry_run: bool, resume: bool) -> None:
    _run_stage(name, _recipe(recipe, overrides), out, dry_run, resume)


def _run_stage(name: str, settings: Recipe, out: Path, dry_run: bool, resume: bool) -> None:
    from safer_steer import forecast
    from safer_steer.pipeline import Pipeline, check_seats

    check_seats(settings)
    if dry_run:
        typer.echo(forecast.text(settings, None if name == "demo" else name, RunFolder(out)))
        return
    pipeline = Pipeline(settings, _folder(out, resume), reporter())
    steps = {
        "construct": pipeline.construct,
        "bootstrap": pipeline.bootstrap,
        "sft": pipeline.sft,
        "grpo": pipeline.grpo,
        "eval": pipeline.evaluate_all,
        "demo": pipeline.everything,
    }
    result = _run(steps[name]())
    if result is not None:
        typer.echo(json.dumps(result, indent=2, default=str))


def _trained(
    name: str, engine: str, recipe: Path | None, out: Path, overrides: list[str] | None, dry_run: bool, resume: bool
) -> None:
    """A training stage on this machine, or on verl under another name of the pipeline's."""
    if engine not in ("local", "verl"):
        raise ConfigError(f"there is no engine '{engine}'", where="--engine", hint="local or verl")
    if engine == "local":
        _stage(name, recipe, out, overrides, dry_run, resume)
        return
    from safer_steer.pipeline import check_seats
    from safer_steer.train.verl.stage import dry_run_text, run_stage

    settings = _recipe(recipe, overrides)
    check_seats(settings)
    if dry_run:
        typer.echo(dry_run_text(name, settings, RunFolder(out)))
        return
    result = run_stage(name, settings, _folder(out, resume), reporter())
    typer.echo(json.dumps(result, indent=2, default=str))


@app.command()
def demo(
    recipe: RecipeOption = None,
    out: OutOption = Path("runs/demo"),
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
) -> None:
    """The whole method, small but real: construct, bootstrap, SFT, GRPO, evaluate, report."""
    _stage("demo", recipe, out, set_, dry_run, resume)


@app.command()
def construct(
    recipe: RecipeOption = None,
    out: OutOption = Path("runs/run"),
    set_: SetOption = None,
    skip_bad_rows: SkipOption = False,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
) -> None:
    """Stage I: single-turn seeds to multi-turn scripts."""
    more = ["construction.skip_bad_rows=true"] if skip_bad_rows else []
    _stage("construct", recipe, out, [*([] if set_ is None else set_), *more], dry_run, resume)


@app.command()
def bootstrap(
    recipe: RecipeOption = None,
    out: OutOption = Path("runs/run"),
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
) -> None:
    """Stage II: red against blue; keep the dialogues the reward judge lets through."""
    _stage("bootstrap", recipe, out, set_, dry_run, resume)


@app.command()
def sft(
    recipe: RecipeOption = None,
    out: OutOption = Path("runs/run"),
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
    engine: EngineOption = "local",
) -> None:
    """Stage II: fine-tune the student on the kept dialogues."""
    _trained("sft", engine, recipe, out, set_, dry_run, resume)


@app.command()
def grpo(
    recipe: RecipeOption = None,
    out: OutOption = Path("runs/run"),
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
    engine: EngineOption = "local",
) -> None:
    """Stage III: GRPO against the tutor."""
    _trained("grpo", engine, recipe, out, set_, dry_run, resume)


@app.command("eval")
def eval_(
    out: OutOption,
    model: Annotated[str | None, typer.Option("--model", help="SPEC of the model under test.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="SPEC of the judge; default: the recipe's.")] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="NAME or NAME:PATH of `safer-steer suites`, or a STEER-Bench file.")
    ] = None,
    skip_bad_rows: SkipOption = False,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Let the tutor attack the model.")] = False,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    dry_run: DryOption = False,
    resume: ResumeOption = True,
) -> None:
    """Judge every turn of a suite against a model: summary.json, turns.parquet and report.html.

    SPEC is `embedded`, `scripted`, `local:PATH` or `openai:MODEL@BASE_URL` (key from OPENAI_API_KEY). Without --model,
    DIR is a run: its base, SFT and SaFeR-Steer models are evaluated, static and adaptive.
    """
    if adaptive and model is None:
        hint = "give --model; without it a run's models are evaluated both ways"
        raise ConfigError("says how one model is evaluated", where="--adaptive", hint=hint)
    settings = _recipe(recipe, set_)
    chosen = settings.eval.model_copy(
        update={
            "suite": settings.eval.suite if suite is None else suite,
            "adaptive": adaptive or settings.eval.adaptive,
            "skip_bad_rows": skip_bad_rows or settings.eval.skip_bad_rows,
        }
    )
    seats = settings.seats.model_copy(update={} if judge is None else {"judge": judge})
    settings = settings.model_copy(update={"eval": chosen, "seats": seats})
    if model is None:
        _run_stage("eval", settings, out, dry_run, resume)
    else:
        _run(_evaluate(settings, model, _folder(out, resume), dry_run))


async def _evaluate(recipe: Recipe, model: str, run: RunFolder, dry_run: bool) -> None:
    from safer_steer import forecast
    from safer_steer.actors.specs import Seating, parse_spec
    from safer_steer.pipeline import check_seats, evaluate

    parse_spec(model)
    check_seats(recipe)
    protocol = "adaptive" if recipe.eval.adaptive else "static"
    if dry_run:
        typer.echo(forecast.evaluation_text(recipe, model))
        return
    if (run.root / "construct").exists():
        hint = "choose another --out, or leave out --model to evaluate the run's own models"
        raise ConfigError("is the folder of a run, whose report must stay its own", where=run.root, hint=hint)
    report = reporter()
    async with Seating(recipe, run.images, notify=report.note) as seats:
        summary = await evaluate(recipe, seats, run, model, run.root, protocol, report)
    _tell(summary, recipe, run)


@app.command("rejudge")
def rejudge_(
    run: Annotated[Path, typer.Option("--run", help="The folder of a finished evaluation.")],
    judge: Annotated[str, typer.Option("--judge", help="SPEC of the judge.")],
    out: OutOption,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    resume: ResumeOption = True,
) -> None:
    """Judge the transcripts of an evaluation by another judge, without asking the model again."""
    settings = _recipe(recipe, set_)
    settings = settings.model_copy(update={"seats": settings.seats.model_copy(update={"judge": judge})})
    _run(_rejudge(settings, run, _folder(out, resume)))


async def _rejudge(recipe: Recipe, source: Path, out: RunFolder) -> None:
    from safer_steer.actors.specs import Seating
    from safer_steer.pipeline import check_seats
    from safer_steer.rejudging import rejudge

    check_seats(recipe)
    report = reporter()
    async with Seating(recipe, out.images, notify=report.note) as seats:
        summary = await rejudge(recipe, seats, source, out, report)
    _tell(summary, recipe, out)


def _tell(summary: Summary, recipe: Recipe, run: RunFolder) -> None:
    """The counts on standard output; exits with 3 when too much is unscored."""
    from safer_steer.pipeline import too_much_unscored

    counts = summary.overall.counts
    typer.echo(json.dumps({"counts": counts.model_dump(), "report": str(run.root / "report.html")}, indent=2))
    if problem := too_much_unscored(summary, recipe):
        typer.echo(f"error: {run.root}: {problem}", err=True)
        raise typer.Exit(3)


data = typer.Typer(no_args_is_help=True, help="What a finished run's data consists of, and other formats of it.")
app.add_typer(data, name="data")
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run whose `bootstrap` is done.")]


@data.command()
def stats(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Where to write; default: DIR/data.")] = None,
) -> None:
    """Sizes, turns, kinds, strategies, categories, success rates: printed, plotted, and in a dataset card."""
    from safer_steer.exports.card import write_card
    from safer_steer.exports.stats import text_of

    folder = run / "data" if to is None else to
    found = write_card(_finished(run), folder)
    typer.echo(text_of(found), nl=False)
    typer.echo(f"wrote README.md, stats.json, stats.txt and stats.png into {folder}", err=True)


@data.command("export")
def export_(
    run: RunArgument,
    format: Annotated[str, typer.Option("--format", "-f", help="trl, llamafactory, verl, hub or jsonl.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write; default: DIR/data/FORMAT.")] = None,
) -> None:
    """The splits of a run as another trainer or viewer reads them."""
    from safer_steer.exports import export

    folder = run / "data" / format if to is None else to
    for name, number in export(_finished(run), format, folder).items():
        typer.echo(f"{folder / name}: {number}")


@data.command()
def check(
    run: RunArgument,
    suite: Annotated[str, typer.Option("--suite", help="A built-in suite, or its file or folder.")],
) -> None:
    """What of a run's training data stands in a benchmark too, by words and by image. Exit code 1 if anything does."""
    from safer_steer.exports.check import against

    found = against(_finished(run), suite)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    if found:
        raise typer.Exit(1)


def _finished(run: Path) -> RunFolder:
    if not run.is_dir():
        raise ConfigError("no such run folder", where=run, hint="give the --out of an earlier stage")
    return RunFolder(run)


@app.command("report")
def report_(recipe: RecipeOption = None, out: OutOption = Path("runs/demo"), set_: SetOption = None) -> None:
    """Write the report of a run, or of one evaluation, again from what lies in its folder."""
    from safer_steer.pipeline import Pipeline

    if not out.is_dir():
        raise ConfigError("no such run folder", where=out, hint="give the --out of an earlier stage")
    run = RunFolder(out)
    if (out / "rollouts.jsonl").exists():  # the folder of `safer-steer eval`
        from safer_steer.report import write_eval_report

        typer.echo(f"report: {write_eval_report(out, run.images)}", err=True)
    else:
        kept = out / "recipe.yaml"  # the recipe its last stage was run with
        chosen = kept if recipe is None and kept.is_file() else recipe
        Pipeline(_recipe(chosen, set_), run, reporter()).write_report()


@app.command("inspect-log")
def inspect_log(
    out: OutOption,
    log: Annotated[
        Path | None, typer.Option("--log", help="The file to write, .eval or .json; default: DIR.eval.")
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Put the images into the log.")] = True,
) -> None:
    """Write an evaluation as an Inspect log, for `inspect view`. Needs the extra `safer-steer[inspect]`."""
    if not (out / "rollouts.jsonl").exists():
        raise ConfigError("holds no evaluation", where=out, hint="give the --out of `safer-steer eval --model …`")
    from safer_steer.inspecting.log import export_log

    target = out.with_name(f"{out.name}.eval") if log is None else log
    if target.suffix not in (".eval", ".json"):
        raise ConfigError("a log ends in .eval or .json", where=target, hint="choose another --log")
    count = export_log(out, target, RunFolder(out).images if images else None)
    typer.echo(json.dumps({"dialogues": count, "log": str(target)}, indent=2))


@app.command("suites")
def suites_() -> None:
    """List the suites and the seed loaders, with what each needs on disk."""
    from safer_steer.bench.suites import listing
    from safer_steer.seeds import LOADERS

    typer.echo("Suites, for --suite NAME or --suite NAME:PATH, and what must lie at PATH:\n")
    for name, turns, about, needs in listing():
        typer.echo(f"  {name:22} {turns:6}  {about}\n  {'':22} {'':6}  PATH: {needs}")
    typer.echo("\nSeed loaders, for construction.seeds: [{loader: NAME, path: PATH}]:\n")
    for name, loader in LOADERS.items():
        typer.echo(f"  {name:16} PATH: {'–' if loader.needs is None else loader.needs}")


app.command("compare")(cli_report.compare)
app.command("paper")(cli_report.paper)


@app.command("recipe")
def recipe_(recipe: RecipeOption = None, set_: SetOption = None) -> None:
    """Print a recipe whole: every key with its value."""
    settings = _recipe(recipe, set_).model_dump(mode="json")
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip())


def _first_known(error: BaseException) -> SaferSteerError | None:
    """The error to show: of a group, the first that is ours."""
    if isinstance(error, SaferSteerError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _first_known(inner))), None)
    return None


def main() -> None:
    """Entry point: runs a command, says an error in one message, and exits with a truthful code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not spin: two cores, several pools
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the loaders' own bars would tear ours
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except (SaferSteerError, ExceptionGroup) as error:
        known = _first_known(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(known, kind)), 1))
    except OSError as error:  # not about a file of the run, which is a StorageError: the temporary folder, a pipe
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
