"""Suites: where the dialogues to evaluate on come from, by name; see `Benchmark`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safer_steer.bench.suites import (
    beavertails_v,
    cosafe,
    jailbreakv,
    mm_safetybench,
    mssbench,
    mtmcs,
    safedialbench,
    safemt,
    siuo,
    spa_vl,
    vlguard,
    vlsbench,
)
from safer_steer.bench.suites.benchmark import SINGLE_TURN_PASS, Benchmark, FolderSuite
from safer_steer.bench.suites.builtin import SteerMini
from safer_steer.bench.suites.steer_bench import SUBSETS, WholeSteerBench, read_steer_bench, subset_suite
from safer_steer.dialogue import Script, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.formats import Reading, Skips
from safer_steer.formats.jailbreakv import FULL, MINI
from safer_steer.formats.mm_safetybench import KINDS
from safer_steer.formats.sources import file_errors
from safer_steer.image_store import ImageStore

__all__ = [
    "SINGLE_TURN_PASS",
    "SUITES",
    "Benchmark",
    "FolderSuite",
    "Suite",
    "check_suite",
    "from_files",
    "listing",
    "load_suite",
    "read_suite",
    "suite_print",
]

SUITES: Mapping[str, Benchmark] = {
    "steer-mini": SteerMini("40 dialogues of 2 to 10 turns from the built-in test seeds", Split.TEST),
    "steer-mini-val": SteerMini("39 from the validation seeds, to tune on", Split.VAL),
    "steer-bench": WholeSteerBench(),
    **{name: subset_suite(name) for name in SUBSETS},
    "safemt": safemt.SUITE,
    "mtmcs-bench": mtmcs.SUITE,
    "mtmcs-bench-text": mtmcs.TEXT,
    "cosafe": cosafe.SUITE,
    "safedialbench-en": safedialbench.suite("en", "safedialbench-en"),
    "safedialbench-zh": safedialbench.suite("zh", "safedialbench-zh"),
    "beavertails-v": beavertails_v.SUITE,
    "mm-safetybench": mm_safetybench.suite("mm-safetybench", "13 scenarios, all three kinds of image", *KINDS),
    "mm-safetybench-sd": mm_safetybench.suite("mm-safetybench-sd", "its drawn images only", "SD"),
    "mm-safetybench-sd-typo": mm_safetybench.suite("mm-safetybench-sd-typo", "drawn and captioned only", "SD_TYPO"),
    "mm-safetybench-typo": mm_safetybench.suite("mm-safetybench-typo", "written words only", "TYPO"),
    "spa-vl": spa_vl.SUITE,
    "vlguard": vlguard.SUITE,
    "vlsbench": vlsbench.SUITE,
    "siuo": siuo.SUITE,
    "mssbench": mssbench.suite("mssbench", mssbench.both, "the same words, safe or unsafe by the image"),
    "mssbench-chat": mssbench.suite("mssbench-chat", mssbench.chat, "its chat part only"),
    "mssbench-embodied": mssbench.suite("mssbench-embodied", mssbench.embodied, "its household robot part only"),
    "jailbreakv-28k": jailbreakv.suite("jailbreakv-28k", FULL, "28,000 jailbreaks, five attack formats"),
    "jailbreakv-mini": jailbreakv.suite("jailbreakv-mini", MINI, "its mini version of 280"),
}
"""Every suite by its name. `NAME` alone where it needs nothing, else `NAME:PATH`."""

OWN_FILE = "a JSON Lines file in STEER-Bench's format, and the images it names"


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as read: its dialogues, whether they have one turn, and the rows that were skipped.

    `from_files`: it is not built in, so that its images may be edited where they lie.
    """

    name: str
    scripts: tuple[Script, ...]
    single_turn: bool
    skips: Skips
    from_files: bool = False

    def pass_marks(self, safety: float, helpfulness: float) -> tuple[float, float]:
        """The pass marks to use: those given, or 3 and 3 for a single-turn suite (method: pass iff score = 3)."""
        return (SINGLE_TURN_PASS, SINGLE_TURN_PASS) if self.single_turn else (safety, helpfulness)


def read_suite(name: str, images: ImageStore, limit: int | None = None, *, skip_bad_rows: bool = False) -> Suite:
    """Read the suite `NAME[:PATH]`, or a STEER-Bench file, checking every row before anything is asked of a model.

    With a `limit` the rows after the last one used are not looked at. With `skip_bad_rows` what is wrong with a row is
    counted in `skips` instead of raised. Raises `ConfigError` (no such suite) and `DataError` (file, row and field).
    """
    benchmark, path = _resolve(name)
    reading = Reading(path, images, skip_bad_rows=skip_bad_rows)
    scripts = tuple(islice(benchmark.scripts(reading), limit))
    if not scripts:
        what = "the file holds no dialogue" if path.is_file() else "there is no dialogue in this folder"
        rows = reading.skips.rows
        skipped = f"{rows} bad {'row was' if rows == 1 else 'rows were'} skipped"
        hint = f"{skipped}, first {reading.skips.first[0]}" if rows else None
        raise DataError(what, file=path, hint=hint)
    return Suite(name, scripts, benchmark.single_turn, reading.skips, benchmark.needs is not None)


def load_suite(name: str, images: ImageStore, limit: int | None = None) -> tuple[Script, ...]:
    """The dialogues of `read_suite`."""
    return read_suite(name, images, limit).scripts


def check_suite(name: str, limit: int | None = None, *, skip_bad_rows: bool = False) -> None:
    """Read the suite as `read_suite` does, and keep nothing: for runs in which hours lie before the evaluation."""
    if from_files(name):
        with tempfile.TemporaryDirectory() as folder:
            read_suite(name, ImageStore(Path(folder)), limit, skip_bad_rows=skip_bad_rows)


def from_files(name: str) -> bool:
    """Whether a suite is read from files, and not built in. Raises `ConfigError` (no such suite)."""
    return _resolve(name)[0].needs is not None


def suite_print(name: str) -> str:
    """What a suite is called in fingerprints: a built-in one's name, the contents of files. Raises like `read_suite`.

    Of a folder only the files that name the images count, not the images.
    """
    benchmark, path = _resolve(name)
    files = benchmark.files(path)
    if not files:
        return name
    prints = [_sha256(file) for file in files]
    head = name.partition(":")[0]
    return prints[0] if head not in SUITES else hashlib.sha256("\n".join([head, *prints]).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with file_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(name: str) -> tuple[Benchmark, Path]:
    """The suite and the path of `NAME[:PATH]`."""
    head, _, rest = name.partition(":")
    benchmark = SUITES.get(head)
    if benchmark is None:
        return _own_file(name), Path(name)
    if benchmark.needs is None and rest:
        raise ConfigError(f"'{head}' is built in and takes no path", where="--suite", hint=f"say --suite {head}")
    if benchmark.needs is not None and not rest:
        hint = f"PATH is a folder with {benchmark.needs}"
        raise ConfigError(f"'{head}' needs a path: {head}:PATH", where="--suite", hint=hint)
    return benchmark, Path(rest)


def _own_file(name: str) -> Benchmark:
    path = Path(name)
    if path.suffix not in (".jsonl", ".json") and not path.exists():
        hint = f"choose from {', '.join(SUITES)}; or give a STEER-Bench JSONL file"
        raise ConfigError(f"there is no suite or file '{name}'", where="--suite", hint=hint)
    if path.is_dir():
        raise ConfigError(f"'{name}' is a folder", where="--suite", hint="say of which suite: NAME:PATH")
    return FolderSuite("", OWN_FILE, (), lambda reading: read_steer_bench(reading, reading.path))


def listing() -> list[tuple[str, str, str, str]]:
    """Every suite: name, `single` or `multi`, what it is, and what must lie at its path."""
    return [
        (name, "single" if suite.single_turn else "multi", suite.about, "–" if suite.needs is None else suite.needs)
        for name, suite in SUITES.items()
    ]
