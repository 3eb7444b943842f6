"""Names in a comparison: evaluations of one model are told apart by their folders, judges by as much as it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from safer_steer.errors import ConfigError
from safer_steer.report.results import Result
from safer_steer.verdict import Stamp


def told_apart(results: Sequence[Result], folders: Sequence[Path]) -> list[Result]:
    """The results, in which no two of one protocol bear the same name.

    Where a model would stand twice, all that was evaluated of it is called after its folder too, in as few words as
    that takes: `sft (a)` and `sft (b)`. Raises `ConfigError` when a folder is named twice.
    """
    for one, other in combinations(folders, 2):
        if one.resolve() == other.resolve():
            raise ConfigError("is named twice", where=one, hint="leave one of the two out")
    named = list(results)
    for model in dict.fromkeys(result.model for result in results):
        mine = [place for place, result in enumerate(results) if result.model == model]
        protocols = [results[place].protocol for place in mine]
        if len(set(protocols)) < len(mine):
            for place, part in zip(mine, _parts([folders[place] for place in mine], protocols), strict=True):
                named[place] = replace(results[place], model=f"{model} ({part})")
    return named


def _parts(folders: Sequence[Path], protocols: Sequence[str]) -> list[str]:
    """The first parts of the paths behind what all share, as many as tell those of one protocol apart."""
    whole = [Path(os.path.abspath(folder)) for folder in folders]
    shared = len(Path(os.path.commonpath([path.parent for path in whole])).parts)
    paths = [path.parts for path in whole]
    longest = max(len(path) for path in paths) - shared
    told = [["/".join(path[shared : shared + n]) for path in paths] for n in range(1, longest + 1)]
    return next(parts for parts in told if len(set(zip(parts, protocols, strict=True))) == len(paths))


def judge_names(results: Sequence[Result]) -> dict[Stamp, str]:
    """The judges of the results, each by its name; where that is not enough with version and prompt."""
    stamps = list(dict.fromkeys(result.judge for result in results))
    plain = [stamp.judge for stamp in stamps]
    dated = [f"{stamp.judge}, version {stamp.version}" for stamp in stamps]
    whole = [f"{stamp.judge}, version {stamp.version}, prompt {stamp.prompt}" for stamp in stamps]
    names = next(names for names in (plain, dated, whole) if len(set(names)) == len(stamps))
    return dict(zip(stamps, names, strict=True))
