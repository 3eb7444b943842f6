"""JailBreakV-28K, whole or its mini version of 280; single-turn."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.bench.suites.benchmark import FolderSuite, one_turn
from safer_steer.formats import Item, Reading, jailbreakv


def suite(name: str, file: str, about: str) -> FolderSuite:
    """The suite that reads this file."""

    def items(reading: Reading) -> Iterator[Item]:
        return jailbreakv.items(reading, file)

    needs = f"{file} and the folders of images it names"
    return FolderSuite(about, needs, (file, f"*/{file}"), one_turn(name, items), single_turn=True)
