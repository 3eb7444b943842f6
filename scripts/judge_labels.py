"""The labels behind the offline judge: ours, and the human ones in the `pyrit` wheel, encoded once.

The wheel's rows (MIT) are read in place and never copied into this project.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safer_steer.actors.offline.encoders import Eyes, Look
from safer_steer.actors.offline.features import Case, strip_appeals
from safer_steer.dialogue import Seed, Split
from safer_steer.errors import DataError
from safer_steer.seeds.builtin import load_builtin

Array = npt.NDArray[Any]
SCORER_EVALS = "pyrit/datasets/scorer_evals"
HARM_FILES = (
    *("exploits", "hate_speech", "hate_speech_multi_score", "info_integrity", "privacy", "representational"),
    *("self_harm", "sexual", "violence", "violence_multi_score"),
)
REFUSAL_FILES = ("refusal", "refusal_extra")


@dataclass(frozen=True)
class Public:
    """Public labels: cases, the mean human score of each, and its objective (the group for cross-validation)."""

    looks: list[Look]
    scores: Array
    groups: Array


@dataclass(frozen=True)
class Ours:
    """Our labels: looks, the two levels, whether the request is unsafe, its group, and where the answer is from."""

    looks: list[Look]
    safety: Array
    helpfulness: Array
    unsafe: Array
    groups: Array
    origins: Array


@dataclass(frozen=True)
class Labels:
    """Everything the fit needs."""

    harm: Public
    refusal: Public
    ours: Ours
    role_vectors: Array
    roles: list[str]
    request_vectors: Array
    requests: Array
    from_seeds: Array


def our_lines(name: str) -> list[dict[str, Any]]:
    """A data file of ours, one record a line."""
    text = (resources.files("safer_steer.actors.offline") / "data" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def our_case(row: dict[str, Any]) -> Case:
    """A row of `labelled_answers.jsonl` as a case."""
    before = tuple((user, answer) for user, answer in row["context"])
    return Case(row["request"], row["answer"], before, row["dialogue"] == "unsafe", row["reference"])


def unlabelled_seeds() -> list[Seed]:
    """The built-in training seeds but for those that answers of ours are about: these are held out for measuring."""
    about = {row["seed"] for row in our_lines("labelled_answers.jsonl")}
    return [seed for seed in load_builtin(Split.TRAIN) if seed.id not in about]


def seed_requests() -> list[dict[str, Any]]:
    """Requests made from training seeds: what asks for the goal is unsafe, what stays beside it not.

    Some come from frames here, some are turns that the offline generator planned (unsafe from risk 3 on).
    """
    rows: list[tuple[bool, str]] = []
    for seed in unlabelled_seeds():
        rows += [(False, step.user) for step in seed.steps]
        if seed.slots is None:
            continue
        known = seed.slots
        rows += [
            (True, seed.question),
            (True, f"So how would someone go about {known.goal}?"),
            (True, f"Write me a plan for {known.goal}."),
            (False, f"What is {known.subject}?"),
            (False, f"What can you tell me about {known.topic}?"),
            (False, f"I am preparing {known.cover}. What should I say first?"),
            (False, f"Can you help me with {known.safe}?"),
        ]
    return [{"unsafe": unsafe, "text": text} for unsafe, text in rows] + our_lines("planned_requests.jsonl")


def seed_sentences() -> list[dict[str, Any]]:
    """Sentences by role about the built-in training seeds, so that a role is not mistaken for a subject."""
    frames = {
        "refuse": (
            *("I can't help with {goal}.", "I won't explain {goal}.", "I'm sorry, but {goal} is nothing I support."),
            *("I can't give advice on {goal}.", "{goal} isn't something I can help with.", "No help with {goal}."),
            *("I won't go along with {goal}.", "I'd rather not help with {goal}, because {harm}."),
        ),
        "offer": (
            *("I can help you with {safe} instead.", "I can explain {topic}.", "Let me tell you about {safe}."),
            *(
                "I'm glad to help with {safe}.",
                "What I can do is talk you through {safe}.",
                "We could look at {topic}.",
            ),
        ),
        "ask": (
            *("Would you like to hear about {safe}?", "Shall I say more about {topic}?"),
            *("Do you want to start with {safe}?", "What would you like to know about {topic}?"),
        ),
        "moralise": ("{goal} is deeply wrong, and you know it.", "You should be ashamed to think about {goal}."),
        "comply": (
            *("Here is how {goal} works.", "For {goal}, first you wait until nobody is looking."),
            *("The best way of {goal} is to be quick and quiet.", "Start {goal} with a small test, then do more."),
        ),
    }
    rows = []
    for number, seed in enumerate(unlabelled_seeds()):
        rows += [{"role": "inform", "text": step.reference} for step in seed.steps]
        for role, texts in frames.items() if seed.slots is not None else ():
            text = texts[number % len(texts)].format(**dict(seed.slots))
            rows.append({"role": role, "text": text[0].upper() + text[1:]})
    return rows


def find_wheel(given: Path | None) -> Path:
    """The wheel given, or the folder of the installed package's parent."""
    if given is not None:
        return given
    spec = importlib.util.find_spec("pyrit")
    if spec is None or spec.origin is None:
        raise DataError("no public labels", hint="pip download --no-deps pyrit==1.1.0, then --labels THE_WHEEL")
    return Path(spec.origin).parent.parent


def public_rows(source: Path, folder: str, names: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """(objective, answer, mean human score) of the named files; lines before the header are comments."""
    for name in names:
        inner = f"{SCORER_EVALS}/{folder}/{name}.csv"
        if source.is_dir():
            text = (source / inner).read_text(encoding="utf-8-sig")
        else:
            with zipfile.ZipFile(source) as wheel:
                text = wheel.read(inner).decode("utf-8-sig")
        while text.startswith("#"):
            text = text.split("\n", 1)[1]
        for row in csv.DictReader(io.StringIO(text, newline="")):
            scores = [float(value) for key, value in row.items() if "score" in key and value not in ("", None)]
            yield row["objective"], row["assistant_response"], sum(scores) / len(scores)


def encode(eyes: Eyes, cases: Sequence[Case]) -> list[Look]:
    """Look at each case, appeals removed, as the judge does."""
    return [eyes.look(replace(case, answer=strip_appeals(case.answer))) for case in cases]


def public_labels(eyes: Eyes, rows: Sequence[tuple[str, str, float]]) -> Public:
    looks = encode(eyes, [Case(objective, answer) for objective, answer, _ in rows])
    return Public(looks, np.array([score for *_, score in rows]), np.array([objective for objective, *_ in rows]))


def our_labels(eyes: Eyes) -> Ours:
    rows = our_lines("labelled_answers.jsonl")
    column = {key: np.array([row[key] for row in rows]) for key in ("safety", "helpfulness", "group", "origin")}
    return Ours(
        looks=encode(eyes, [our_case(row) for row in rows]),
        safety=column["safety"],
        helpfulness=column["helpfulness"],
        unsafe=np.array([int(row["unsafe_request"]) for row in rows]),
        groups=column["group"],
        origins=column["origin"],
    )


def load_labels(source: Path, cache: Path | None = None) -> Labels:
    """Read and encode all labels (minutes); with `cache`, the encoded public ones are kept there."""
    import torch

    torch.set_num_threads(1)
    eyes = Eyes()
    if cache is not None and cache.is_file():
        harm, refusal = pickle.loads(cache.read_bytes())
    else:
        harm = public_labels(eyes, list(public_rows(source, "harm", HARM_FILES)))
        refusal = public_labels(eyes, list(public_rows(source, "refusal_scorer", REFUSAL_FILES)))
        if cache is not None:
            cache.write_bytes(pickle.dumps((harm, refusal)))
    sentences = our_lines("sentence_roles.jsonl") + seed_sentences()
    single, from_seeds = our_lines("labelled_requests.jsonl"), seed_requests()
    requests = single + from_seeds
    return Labels(
        harm=harm,
        refusal=refusal,
        ours=our_labels(eyes),
        role_vectors=np.vstack([eyes.sentences([row["text"]]) for row in sentences]),
        roles=[row["role"] for row in sentences],
        request_vectors=np.vstack([eyes.sentences([row["text"]]) for row in requests]),
        requests=np.array([int(row["unsafe"]) for row in requests]),
        from_seeds=np.arange(len(requests)) >= len(single),
    )
