"""The held-out numbers of a projector: captions, shapes, reading."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from projector_cache import load_rows
from projector_language import READ, SHOW, Likelihood, Pictures, match, pictures
from projector_start import Vocabulary
from safetensors.torch import save_file
from torch import Tensor

from safer_steer.embedded.build import LANGUAGE_MODEL, TOWER, sha256_of, shipped
from safer_steer.embedded.projector import Projector

PRIOR_PICTURES = 24
"""Over how many training pictures an answer's prior is taken."""


def spoken(rows: list[dict[str, Any]]) -> list[str]:
    """The answer that each picture should get: its caption, or the words written on it."""
    return [" ".join(r["words"]) if r["words"] else r["captions"][0] for r in rows]


def in_lexicon(rows: list[dict[str, Any]], vocabulary: Vocabulary) -> list[int]:
    """Rows whose words can all be spelled by the lexicon."""
    known = set(vocabulary.lexicon)
    return [i for i, r in enumerate(rows) if all(w in known for w in r["words"])]


@torch.no_grad()
def reading(
    projector: Projector, features: dict[str, Tensor], rows: list[dict[str, Any]], vocabulary: Vocabulary
) -> dict[str, Any]:
    """How often the reader's likeliest word is the word drawn, among all of the lexicon; random strings left out."""
    known = set(vocabulary.lexicon)
    hits: list[bool] = []
    silent = extra = 0
    for low in range(0, len(rows), 25):
        _, found = projector.reader.find(
            features["fine"][low : low + 25].float(), features["middle"][low : low + 25].float()
        )
        best = projector.reader.spell(found).argmax(-1).tolist()
        for row, guesses in zip(rows[low : low + 25], best, strict=True):
            said = [vocabulary.lexicon[g] for g in guesses]
            hits += [w == s for w, s in zip(row["words"], said, strict=False) if w in known]
            silent += said[len(row["words"]) :].count("")
            extra += len(said[len(row["words"]) :])
    rate = sum(hits) / len(hits)
    result = {
        "words": len(hits),
        "exact": round(rate, 3),
        "ci95": round(1.96 * (rate * (1 - rate) / len(hits)) ** 0.5, 3),
    }
    return result | {"empty_places_left_empty": round(silent / max(1, extra), 3)}


def measure(
    projector: Projector, tower: Any, vocabulary: Vocabulary, score: Likelihood, folder: Path, trials: int
) -> dict[str, Any]:
    """The held-out numbers: 10-way caption match, losses, shapes, reading."""
    report: dict[str, Any] = {"reading": {}}
    for name in ("known", "new-words", "new-fonts", "new-both"):
        rows, features = load_rows(folder, f"words-test-{name}.pt")
        report["reading"][name] = reading(projector, features, rows, vocabulary)
        print(name, report["reading"][name], flush=True)

    def seen(name: str, chosen: Callable[[list[dict[str, Any]]], Sequence[int]]) -> Pictures:
        rows, features = load_rows(folder, f"{name}.pt")
        picked = list(chosen(rows))
        return pictures(
            {n: f[picked] for n, f in features.items()}, spoken([rows[i] for i in picked]), tower, projector
        )

    def single(rows: list[dict[str, Any]]) -> list[int]:
        return [i for i in in_lexicon(rows, vocabulary) if len(rows[i]["words"]) == 1]

    def few(rows: list[dict[str, Any]]) -> list[int]:
        return [n * len(rows) // PRIOR_PICTURES for n in range(PRIOR_PICTURES)]

    written, others = seen("words-test-new-both", single), seen("words-train-0", lambda r: single(r)[:PRIOR_PICTURES])
    report["reading"]["said_by_the_language_model"] = match(score, projector, written, others, READ, 10, 1, 0)
    for part, test, training, sets in (
        ("captions", "stamps-test", "stamps-train-0", trials),
        ("shapes", "shapes-test", "shapes-train", 1),
    ):
        tested, others = seen(test, lambda rows: range(len(rows))), seen(training, few)
        report[part] = match(score, projector, tested, others, SHOW, 10, sets, 0)
    return report


def ship(state: dict[str, Tensor], report: dict[str, Any]) -> None:
    """Write the projector (float16) and its card where the package looks for them."""
    target = shipped("projector.safetensors")
    half = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in state.items()}
    save_file(half, target)
    target.chmod(0o644)
    card = {
        "projector_sha256": sha256_of(target),
        "language_model": LANGUAGE_MODEL.package,
        "vision_tower": TOWER.package,
        "trained_on": ["tuxpaint-stamps-default (GPL-2, not copied)", "fluentui-emoji (MIT)", "pictures drawn by us"],
        "held_out": report,
    }
    shipped("model_card.json").write_text(json.dumps(card, indent=2) + "\n")
