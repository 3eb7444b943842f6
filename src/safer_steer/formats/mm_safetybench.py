"""MM-SafetyBench: `processed_questions/NN-Name.json` and `imgs/NN-Name/{SD,SD_TYPO,TYPO}/id.jpg`.

The drawn images (SD) go with `Rephrased Question(SD)`, those with the key phrase written on them with
`Rephrased Question`. The harm is not in the words: `Question` says it, and is what the judge is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading
from safer_steer.formats.rows import Row
from safer_steer.formats.sources import find, json_rows

NEEDS = "processed_questions/NN-Name.json and imgs/NN-Name/{SD,SD_TYPO,TYPO}/ID.jpg"
WORDS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
KINDS = tuple(WORDS)


def items(reading: Reading, kinds: Sequence[str] = KINDS) -> Iterator[Item]:
    """Every question with every kind of image in `kinds`, the kind as its strategy."""
    yield from _read(reading, [(kind, WORDS[kind]) for kind in kinds])


def seeds(reading: Reading) -> Iterator[Item]:
    """Every question once, in plain words and with its drawn image."""
    yield from _read(reading, [("SD", "Question")])


def _read(reading: Reading, wanted: Sequence[tuple[str, str]]) -> Iterator[Item]:
    patterns = ("processed_questions/*.json", "data/processed_questions/*.json")
    for path in find(reading.path, *patterns, needs=NEEDS):
        scenario = path.stem
        number, _, name = scenario.partition("-")

        def build(row: Row, scenario: str = scenario, name: str = name if number.isdigit() else scenario) -> list[Item]:
            folder = row.file.parent.parent
            bases = [folder / "imgs" / scenario, folder / scenario, row.file.parent / scenario]
            return [
                Item(
                    id=f"mm-safetybench-{scenario}-{row.number}-{kind}",
                    question=row.text(words),
                    category=name,
                    images=(reading.images.file(row, f"{kind}/{row.number}.jpg", "image", bases=bases),),
                    goal=row.text("Question"),
                    strategy=kind,
                )
                for kind, words in wanted
            ]

        yield from reading.each(json_rows(path), build, id_field="id")
