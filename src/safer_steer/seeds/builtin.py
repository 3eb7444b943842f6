"""The built-in seed set: harmful seeds over fourteen categories and benign ones over five, each with real images.

One data file per category, `data/harmful/<category>.yaml` or `data/benign/<kind>.yaml`, with its seeds under the
split they belong to. Splits are by seed, and no image stands in two of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from safer_steer.dialogue import BenignStep, HarmSlots, Record, Seed, SeedKind, Split
from safer_steer.errors import ConfigError
from safer_steer.seeds.images import image_ref, picture, read_yaml

HARM_CATEGORIES = (
    "illegal_activity",
    "hate_speech",
    "malware",
    "physical_harm",
    "economic_harm",
    "fraud",
    "sexual_content",
    "political_manipulation",
    "privacy_violation",
    "weapons",
    "drugs",
    "self_harm",
    "harassment",
    "animal_abuse",
)
BENIGN_KINDS = ("image_description", "maths", "science", "reading", "everyday")

SOURCE, LICENCE = "safer-steer built-in", "Apache-2.0"


class _Entry(Record):
    id: str
    image: str | tuple[str, ...]
    question: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.image,) if isinstance(self.image, str) else self.image


class _Harmful(_Entry):
    subject: str
    topic: str
    goal: str
    cover: str
    safe: str
    harm: str


class _Benign(_Entry):
    reference: str
    steps: tuple[BenignStep, ...]
    borderline: bool = False


class _HarmFile(Record):
    category: str
    train: tuple[_Harmful, ...]
    val: tuple[_Harmful, ...]
    test: tuple[_Harmful, ...]


class _BenignFile(Record):
    category: str
    train: tuple[_Benign, ...]
    val: tuple[_Benign, ...]
    test: tuple[_Benign, ...]


def load_builtin(split: Split | str | None = None) -> tuple[Seed, ...]:
    """The built-in seeds of one split, or all of them, in a fixed order.

    Their images are addressed by content but not stored: see `images.materialise_images`. Raises `ConfigError` for
    an unknown split.

    >>> sorted({seed.split.value for seed in load_builtin("val")})
    ['val']
    """
    try:
        wanted = None if split is None else Split(split)
    except ValueError as error:
        raise ConfigError(f"unknown split '{split}'", hint=f"choose from {[s.value for s in Split]}") from error
    return tuple(seed for seed in _all() if wanted is None or seed.split is wanted)


@lru_cache(maxsize=1)
def _all() -> tuple[Seed, ...]:
    return (*_harmful(), *_benign())


def _harmful() -> Iterable[Seed]:
    for category in HARM_CATEGORIES:
        file: _HarmFile = read_yaml(f"harmful/{category}.yaml", _HarmFile)
        for split, entries in ((Split.TRAIN, file.train), (Split.VAL, file.val), (Split.TEST, file.test)):
            for e in entries:
                slots = HarmSlots(
                    subject=e.subject, topic=e.topic, goal=e.goal, cover=e.cover, safe=e.safe, harm=e.harm
                )
                yield _seed(e, category, split, SeedKind.HARMFUL).model_copy(update={"slots": slots})


def _benign() -> Iterable[Seed]:
    for category in BENIGN_KINDS:
        file: _BenignFile = read_yaml(f"benign/{category}.yaml", _BenignFile)
        for split, entries in ((Split.TRAIN, file.train), (Split.VAL, file.val), (Split.TEST, file.test)):
            for e in entries:
                answers = {"steps": e.steps, "reference": e.reference, "borderline": e.borderline}
                yield _seed(e, category, split, SeedKind.BENIGN).model_copy(update=answers)


def _seed(entry: _Entry, category: str, split: Split, kind: SeedKind) -> Seed:
    return Seed(
        id=entry.id,
        kind=kind,
        category=category,
        question=entry.question,
        images=tuple(image_ref(name) for name in entry.names),
        split=split,
        facts=tuple(fact for name in entry.names for fact in picture(name).facts),
        source=SOURCE,
        licence=LICENCE,
    )
