"""Sentence frames: data files of sentences with `{slots}`, chosen by stable hash and filled into clean English.

What stands in a slot must fit the frames' grammar: `subject` and `cover` are noun phrases, `topic` is a noun
phrase or an indirect question ("how door locks work"), `goal` and `safe` are -ing phrases, `harm` is a clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from string import Formatter
from types import MappingProxyType

import yaml

from safer_steer.dialogue import Script, Seed, stable_id

Frames = Mapping[str, tuple[str, ...]]

_PERSON = (
    ("you are", "I am"),
    ("(when|while|if|before|after|that) you", r"\1 I"),
    ("your own", "my own"),
    ("yourself", "myself"),
    ("yours", "mine"),
    ("your", "my"),
    ("you", "me"),
)
_DASHES = re.compile(r"\s+([,.;:?!])")
_DOUBLED = re.compile(r"([?!.])\.+(?=\s|$)")


def data_text(name: str) -> str:
    """The text of one of the offline cast's data files."""
    return resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")


@lru_cache(maxsize=16)
def load_frames(name: str) -> Frames:
    """The frames of `data/<name>.yaml`, by act."""
    return MappingProxyType({act: tuple(lines) for act, lines in yaml.safe_load(data_text(f"{name}.yaml")).items()})


@lru_cache(maxsize=4096)
def fields(frame: str) -> frozenset[str]:
    """The slots that a frame needs.

    >>> sorted(fields("Is {subject} good for {cover}?"))
    ['cover', 'subject']
    """
    return frozenset(name for _, name, _, _ in Formatter().parse(frame) if name)


def pick(frames: Sequence[str], *key: object) -> str:
    """One of the frames, always the same for the same key, in every process; raises `ValueError` without frames."""
    if not frames:
        raise ValueError("no frames to pick from")
    return frames[int(stable_id(*key), 16) % len(frames)]


def dealt(frames: Iterable[str], *key: object) -> tuple[str, ...]:
    """All the frames in an order that depends on the key alone: deal from it to say nothing twice."""
    return tuple(sorted(frames, key=lambda frame: stable_id(*key, frame)))


def fitting(frames: Iterable[str], slots: Mapping[str, str]) -> tuple[str, ...]:
    """The frames whose every slot can be filled."""
    return tuple(frame for frame in frames if fields(frame) <= slots.keys())


def fill(frame: str, slots: Mapping[str, str]) -> str:
    """The frame with its slots filled; every sentence starts with a capital and has one mark at its end.

    >>> fill("{subject} fits. shall we see {cover}?", {"subject": "the lock", "cover": "a film"})
    'The lock fits. Shall we see a film?'
    """
    text = _DASHES.sub(r"\1", " ".join(frame.format_map(slots).split()))
    text = _DOUBLED.sub(r"\1", text)
    return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda match: match[0].upper(), text)


def listed(items: Sequence[str]) -> str:
    """A list in prose.

    >>> listed(["a house", "a red roof", "a garden"])
    'a house, a red roof and a garden'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def as_user(phrase: str) -> str:
    """The assistant's words in the user's mouth.

    >>> as_user("protecting your own laptop")
    'protecting my own laptop'
    >>> as_user("keeping your home safe while you are away")
    'keeping my home safe while I am away'
    """
    for ours, theirs in _PERSON:
        phrase = re.sub(rf"\b{ours}\b", theirs, phrase)
    return phrase


def slots_of(source: Script | Seed) -> dict[str, str]:
    """What fills the frames: the harm slots, and the facts as `facts` (up to three) and `fact` (the first)."""
    slots = {} if source.slots is None else dict(source.slots.model_dump())
    if source.facts:
        slots |= {"fact": source.facts[0], "facts": listed(source.facts[:3])}
    return slots
