"""How the projector is fitted: meanings in closed form, then letters, then through the language model."""

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from projector_cache import load_rows
from projector_data import bucket
from projector_language import (
    READ_VARIANTS,
    SHOW_VARIANTS,
    Likelihood,
    Pictures,
    composed,
    contrast_loss,
    pictures,
    rivals,
)
from projector_measure import in_lexicon, spoken
from projector_start import MEANING_WIDTH, Vocabulary, content_words
from torch import Tensor
from torch.nn import functional as F

from safer_steer.embedded.projector import BLANK, COLUMNS, LETTERS, ROWS, Projector, views

FOLDS = 5
STAMPS = [f"stamps-train-{view}" for view in range(4)]
LESSONS = (
    STAMPS[0], "emoji-train-modern", "words-train-0", STAMPS[1], "shapes-train", STAMPS[2], "emoji-train-modern",
    STAMPS[0], "words-train-1", STAMPS[3], "letters-train", STAMPS[0],
)  # fmt: skip


def schedule(step: int, steps: int, warm: int = 30) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    return min(1.0, (step + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def descend(
    parameters: list[dict[str, Any]],
    steps: int,
    loss_of: Callable[[int], Tensor],
    note: str,
    each: int = 50,
    keep: Callable[[], None] | None = None,
) -> None:
    """AdamW on a loss for a number of steps; says the running mean, and calls `keep`, every `each` steps."""
    optimizer = torch.optim.AdamW(parameters)
    rates = [group["lr"] for group in optimizer.param_groups]
    running = 0.0
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step, steps)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in parameters for p in g["params"]], 1.0)
        optimizer.step()
        running += loss.item()
        if (step + 1) % each == 0:
            print(f"{note} {step + 1}/{steps} loss {running / each:.4f}", flush=True)
            running = 0.0
            if keep is not None:
                keep()


def object_targets(rows: list[dict[str, Any]], vocabulary: Vocabulary) -> Tensor:
    """(n, vocabulary): equal weight on each content word of a caption; zero rows have none."""
    target = torch.zeros(len(rows), len(vocabulary.words))
    for row, data in enumerate(rows):
        words = ["words"] if data["words"] else content_words(data["captions"][0])
        for word in words:
            if word in vocabulary.index:
                target[row, vocabulary.index[word]] = 1
    return target / target.sum(1, keepdim=True).clamp(min=1)


def ridge(features: Tensor, targets: Tensor, strength: float = 3000.0) -> tuple[Tensor, Tensor]:
    """Weight (targets, features) and bias of ridge regression on features of unit scale."""
    middle, scale = features.mean(0), features.std()
    inputs = F.pad((features - middle) / scale, (0, 1), value=1.0)
    normal = inputs.T @ inputs + strength * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(normal, inputs.T @ targets)
    weight = solved[:-1].T / scale
    return weight, solved[-1] - weight @ middle


def meaning_maps(projector: Projector, vocabulary: Vocabulary, folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Maps from pooled features to meanings: first from all pictures, then without each fold in turn."""
    rows: list[dict[str, Any]] = []
    pooled: list[Tensor] = []
    for pattern in ("stamps-train-?.pt", "emoji-train-*.pt", "shapes-train.pt", "letters-train.pt", "words-train-0.pt"):
        more, features = load_rows(folder, pattern)
        few = slice(0, 300) if pattern.startswith(("letters", "words")) else slice(None)
        rows += more[few]
        pooled.append(features["final"][few].float().mean((-2, -1)))
    target = F.normalize(object_targets(rows, vocabulary) @ projector.objects.meanings, dim=-1)
    inputs = torch.cat(pooled)
    useful = target.norm(dim=-1) > 0.5
    fold = torch.tensor([fold_of(row) for row in rows])
    kept = [useful, *(useful & (fold != left_out) for left_out in range(FOLDS))]
    return [ridge(inputs[rows_kept], target[rows_kept]) for rows_kept in kept]


def fold_of(row: dict[str, Any]) -> int:
    """The fold of a training picture; equal captions share it."""
    return bucket(row["captions"][0].lower() + "fold", FOLDS)


@torch.no_grad()
def train_words(projector: Projector, vocabulary: Vocabulary, folder: Path) -> None:
    """Fit the map from pooled features to meanings, in closed form."""
    weight, bias = meaning_maps(projector, vocabulary, folder)[0]
    projector.objects.meaning.weight.copy_(weight)
    projector.objects.meaning.bias.copy_(bias)


def letter_targets(rows: list[dict[str, Any]], words: int, places: int) -> tuple[Tensor, Tensor]:
    """Cells of each letter (n, words, places, cells) and its class (n, words, places), BLANK where there is none."""
    cells = torch.zeros(len(rows), words, places, ROWS, COLUMNS, dtype=torch.bool)
    classes = torch.full((len(rows), words, places), BLANK)
    for row, data in enumerate(rows):
        for word, place, letter, (left, top, right, bottom) in data["letters"]:
            high = bottom - top
            first, last = int((top + 0.3 * high) * ROWS), int((top + 0.9 * high) * ROWS)
            start, stop = (round((left + 0.002) * COLUMNS), round((right - 0.002) * COLUMNS))
            middle = min(COLUMNS - 1, max(0, int((left + right) / 2 * COLUMNS)))
            columns = slice(start, stop) if stop > start else slice(middle, middle + 1)
            cells[row, word, place, min(first, ROWS - 1) : last + 1, columns] = True
            classes[row, word, place] = LETTERS.index(letter)
    return cells.flatten(-2), classes


def train_letters(projector: Projector, folder: Path, steps: int, rate: float, keep: Callable[[], None]) -> None:
    """Fit the reader to where each letter was drawn and what it is; other pictures teach it to stay silent."""
    rows, features = load_rows(folder, "words-train-*.pt")
    for pattern in ("stamps-train-0.pt", "shapes-train.pt"):
        more, extra = load_rows(folder, pattern)
        picked = [i for i, r in enumerate(more) if not re.search(r"letter|sign|symbol", r["captions"][0].lower())][:300]
        rows += [more[i] for i in picked]
        features = {n: torch.cat([features[n], extra[n][picked]]) for n in ("fine", "middle")}
    for pattern, wanted in (("letters-train.pt", r"."), ("stamps-train-0.pt", r"^The letter [A-Za-z]\.$")):
        more, extra = load_rows(folder, pattern)
        picked = [i for i, r in enumerate(more) if re.search(wanted, r["captions"][0])]
        rows += [more[i] for i in picked]
        features = {n: torch.cat([features[n], extra[n][picked]]) for n in ("fine", "middle")}
    reader = projector.reader
    cells, classes = letter_targets(rows, reader.words, reader.places)
    for row, data in enumerate(rows):  # a stamp of a letter: where it stands is not known
        if not data["letters"] and (letter := re.fullmatch(r"The letter ([A-Za-z])\.", data["captions"][0])):
            classes[row, 0, 0] = LETTERS.index(letter[1].lower())
            cells[row, 0, 0] = True
    generator = torch.Generator().manual_seed(2)
    order: list[int] = []

    def loss_of(step: int) -> Tensor:
        nonlocal order
        if len(order) < 32:
            order = torch.randperm(len(rows), generator=generator).tolist()
        picked, order = order[:32], order[32:]
        attention, found = reader.find(features["fine"][picked].float(), features["middle"][picked].float())
        target, here = classes[picked], cells[picked]
        blank = target == BLANK
        mass = torch.where(blank, attention[..., -1], (attention[..., :-1] * here).sum(-1))
        letter = found.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        loss = -(mass + 1e-5).log() - (letter + 1e-5).log()
        return loss[~blank].mean() + loss[blank].mean()

    rest = [p for n, p in reader.named_parameters() if n not in ("commonness", "nothing")]
    descend([{"params": rest, "lr": rate, "weight_decay": 0.02}], steps, loss_of, "letters", 100, keep)


@torch.no_grad()
def teaching(projector: Projector, tower: Any, vocabulary: Vocabulary, folder: Path) -> dict[str, Pictures]:
    """What the language stage is shown, each picture as a map sees it that was not fitted to its caption.

    So the language model learns to read words that are as uncertain as those of new pictures.
    """
    maps = meaning_maps(projector, vocabulary, folder)[1:]
    shown: dict[str, Pictures] = {}
    for name in ("shapes-train", "letters-train", "emoji-train-modern", "words-train-0", "words-train-1", *STAMPS):
        rows, features = load_rows(folder, f"{name}.pt")
        pooled = torch.cat([views(part.float()) for part in features["final"].split(256)])
        fold = torch.tensor([fold_of(row) for row in rows])
        meant = torch.zeros(*pooled.shape[:2], MEANING_WIDTH)
        for index, (weight, bias) in enumerate(maps):
            meant[fold == index] = pooled[fold == index] @ weight.T + bias
        answers = [r["captions"][0] for r in rows] if name == "letters-train" else spoken(rows)
        shown[name] = pictures(features, answers, tower, projector, meant).pick(in_lexicon(rows, vocabulary))
    return shown


def train_language(projector: Projector, shown: dict[str, Pictures], score: Likelihood, steps: int,
                   keep: Callable[[], None], batch: int = 12, ways: int = 4) -> None:  # fmt: skip
    """Tune through the frozen language model: say the true answer, and prefer it to the answers of other pictures."""
    rng = random.Random(3)

    def loss_of(step: int) -> Tensor:
        kind = LESSONS[step % len(LESSONS)]
        pool = shown[kind]
        part = pool.pick(rng.sample(range(len(pool.answers)), batch))
        question = rng.choice(READ_VARIANTS if kind.startswith("words") else SHOW_VARIANTS)
        image = composed(projector, part, score.table)
        sums, lengths = score(image, question, rivals(part.answers, pool.answers, ways, rng))
        say, choose = contrast_loss(sums, lengths)
        if step % 10 == 9:
            print(f"  {kind} say {say.item():.3f} choose {choose.item():.3f}", flush=True)
        return say + choose

    reader, objects = projector.reader, projector.objects
    free = [projector.frame, projector.unwritten, projector.offset]
    scales = [reader.commonness, reader.nothing, objects.trust]
    descend([{"params": free, "lr": 3e-3, "weight_decay": 0.0}, {"params": scales, "lr": 1e-2, "weight_decay": 0.0},
             {"params": [objects.sharpness, objects.sharpness_of_quarters], "lr": 0.2, "weight_decay": 0.0}],
            steps, loss_of, "language", 20, keep)  # fmt: skip
