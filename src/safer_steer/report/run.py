"""The reports: of one evaluation, of a whole run with all its models, and of any evaluations beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.bench.books import images_of, require_evaluation
from safer_steer.bench.turns import REPEATED
from safer_steer.config import Recipe
from safer_steer.errors import StageError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.report import facts
from safer_steer.report.comparisons import Comparisons, comparisons
from safer_steer.report.exports import result_tables
from safer_steer.report.headline import headline
from safer_steer.report.naming import told_apart
from safer_steer.report.results import MODELS, PROTOCOLS, Result, level, read_result
from safer_steer.report.tables import write_tables
from safer_steer.report.view import page
from safer_steer.run_folder import RunFolder
from safer_steer.store import disk_errors, write_atomic, write_json


def write_eval_report(folder: Path, images: ImageStore) -> Path:
    """One evaluation's `report.html` and `tables/` from its summary and transcripts; returns the page's path."""
    result = read_result(folder)
    title = f"{result.label}: {result.summary.of.suite}, {result.protocol}"
    return _write(folder, [result], comparisons([result]), images, title=title, run=None)


def write_run_report(run: RunFolder, *, recipe: Recipe) -> Path:
    """The run's `report.html`, `summary.json` and `tables/`; raises `StageError` if nothing was evaluated."""
    results = run_results(run)
    if not results:
        hint = "run `safer-steer eval` or `safer-steer demo` with the same --out first"
        raise StageError("no evaluation is finished", where=run.root / "eval", hint=hint)
    compared = comparisons(results)
    write_json(run.root / "summary.json", run_summary(run, results, compared, recipe))
    return _write(run.root, results, compared, run.images, title=f"SaFeR-Steer: {recipe.name}", run=run)


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Evaluations of several folders in one report: `report.html`, `summary.json`, `turns.parquet`, `tables/`.

    Models bear the names their evaluations gave them, and where those clash their folders' besides (`told_apart`).
    Raises `ConfigError` when a folder holds no evaluation or is named twice.
    """
    for folder in folders:
        require_evaluation(folder)
    results = told_apart(level([read_result(folder) for folder in folders]), folders)
    compared = comparisons(results)
    write_json(out / "summary.json", _figures(results, compared))
    _merge_turns({folder / "turns.parquet": r.model for folder, r in zip(folders, results, strict=True)}, out)
    stores = _Stores([images_of(folder) for folder in folders])
    return _write(out, results, compared, stores, title="Evaluations compared", run=None)


class _Stores(ImageStore):
    """Several image stores read as one."""

    def __init__(self, stores: Sequence[ImageStore]) -> None:
        super().__init__(stores[0].root)
        self._stores = stores

    @property
    def roots(self) -> tuple[Path, ...]:
        return tuple(store.root for store in self._stores)

    def path(self, ref: Any) -> Path:
        paths = [ImageStore.path(store, ref) for store in self._stores]
        return next((path for path in paths if path.exists()), paths[0])


def _table(path: Path) -> pa.Table:
    """A table whole; `pq.read_table` would import the data set machinery first, and pandas with it."""
    with pq.ParquetFile(path) as file:
        return file.read()


def _merge_turns(paths: Mapping[Path, str], folder: Path) -> None:
    """The tables at `paths` as one, each under the name its model bears here."""
    out, sink = folder / "turns.parquet", pa.BufferOutputStream()
    try:
        with disk_errors(out):
            tables = [_named(_table(path), model) for path, model in paths.items()]
        pq.write_table(
            pa.concat_tables(tables, promote_options="default"), sink, compression="zstd", use_dictionary=REPEATED
        )
    except pa.ArrowException as error:
        raise StorageError(f"cannot be put together: {error}", where=out, hint="evaluate again, it resumes") from error
    write_atomic(out, sink.getvalue().to_pybytes())


def _named(table: pa.Table, model: str) -> pa.Table:
    place = table.schema.get_field_index("model")
    return table.set_column(place, "model", pa.array([model] * table.num_rows, pa.string()))


def _write(
    folder: Path,
    results: Sequence[Result],
    compared: Comparisons,
    images: ImageStore,
    *,
    title: str,
    run: RunFolder | None,
) -> Path:
    write_tables(folder / "tables", result_tables(results, compared))
    path = folder / "report.html"
    write_atomic(path, page(results, compared, images, title=title, run=run))
    return path


def run_results(run: RunFolder) -> list[Result]:
    """The finished evaluations of the run, protocol by protocol, models in the order of their making."""
    found = [
        read_result(folder, model, protocol)
        for protocol in PROTOCOLS
        for model in MODELS
        if ((folder := run.root / "eval" / f"{model}-{protocol}") / "summary.json").exists()
    ]
    return level(found)


def run_summary(run: RunFolder, results: Sequence[Result], compared: Comparisons, recipe: Recipe) -> dict[str, Any]:
    """`summary.json` of a run: every number the report shows."""
    trained = facts.training(run)
    stages = facts.costs(run, [(f"{r.model}-{r.protocol}", r.summary.seconds) for r in results])
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **_figures(results, compared),
        "grpo": None if trained is None else {"step": trained.steps, **trained.lines},
        "stages": [{"name": c.name, "seconds": c.seconds, "peak_mb": c.peak_mb} for c in stages],
    }


def _figures(results: Sequence[Result], compared: Comparisons) -> dict[str, Any]:
    return {
        "headline": headline(results, compared),
        "evaluations": {f"{r.model}-{r.protocol}": r.summary.contract() for r in results},
        "differences": _differences(results, compared),
        **compared.as_json(),
    }


def _differences(results: Sequence[Result], compared: Comparisons) -> dict[str, Any]:
    """Last model minus first, per protocol and metric."""
    found: dict[str, Any] = {}
    for protocol in compared.protocols:
        chain = [result for result in results if result.protocol == protocol]
        for pair in compared.models:
            if len(chain) > 1 and pair.a is chain[0] and pair.b is chain[-1]:
                figures = {key: figure.model_dump() for key, figure in pair.figures.items()}
                found[protocol] = {"from": pair.a.model, "to": pair.b.model, **figures}
    return found
