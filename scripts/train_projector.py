"""Train the projector of the embedded student, and measure it on pictures that it never saw.

    python scripts/train_projector.py --stamps /usr/share/tuxpaint/stamps --work work/projector

Stages: `cache` runs the frozen tower over every picture; `words` fits the object words (no language model);
`letters` fits the reader of strokes (no language model); `language` tunes everything through the frozen language
model; `measure` writes the held-out numbers. Each stage starts from the file of the one before it.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from projector_cache import cache_all, load_rows
from projector_language import (
    READ_VARIANTS,
    SHOW_VARIANTS,
    Likelihood,
    Pictures,
    contrast_loss,
    pictures,
    rivals,
)
from projector_measure import in_lexicon, measure, ship, spoken
from projector_start import Vocabulary, content_words, fresh_projector, load_parameters
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from safer_steer.embedded.build import find_sources, load_tower
from safer_steer.embedded.gguf_weights import SmolLM2File
from safer_steer.embedded.projector import BLANK, COLUMNS, LETTERS, ROWS, Projector


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


def train_words(projector: Projector, tower: Any, vocabulary: Vocabulary, folder: Path, steps: int) -> None:
    """Fit the object words to the captions' content words."""
    rows, features = load_rows(folder, "stamps-train-*.pt")
    more, shape_features = load_rows(folder, "shapes-train.pt")
    text, text_features = load_rows(folder, "words-train-0.pt")
    drawn, drawn_features = load_rows(folder, "emoji-train-*.pt")
    rows += more + text[:300] + drawn
    parts = (features["final"], shape_features["final"], text_features["final"][:300], drawn_features["final"])
    pooled = torch.cat([part.float().mean((-2, -1)) for part in parts])
    class_logits = tower.classifier(pooled)
    target = object_targets(rows, vocabulary)
    generator = torch.Generator().manual_seed(1)
    objects = projector.objects

    def loss_of(step: int) -> Tensor:
        picked = torch.randint(len(rows), (128,), generator=generator)
        logits = objects.logits(projector.hide(F.dropout(pooled[picked], 0.1)), class_logits[picked])
        return F.cross_entropy(logits, target[picked])

    descend([{"params": list(objects.parameters()), "lr": 1e-3, "weight_decay": 0.05}], steps, loss_of, "words", 100)


def letter_targets(rows: list[dict[str, Any]], words: int, places: int) -> tuple[Tensor, Tensor]:
    """Cells of each letter (n, words, places, cells) and its class (n, words, places), BLANK where there is none."""
    cells = torch.zeros(len(rows), words, places, ROWS, COLUMNS, dtype=torch.bool)
    classes = torch.full((len(rows), words, places), BLANK)
    for row, data in enumerate(rows):
        for word, place, letter, (left, top, right, bottom) in data["letters"]:
            high = bottom - top
            first, last = int((top + 0.3 * high) * ROWS), int((top + 0.9 * high) * ROWS)
            start, stop = round((left + 0.002) * COLUMNS), round((right - 0.002) * COLUMNS)
            middle = min(COLUMNS - 1, max(0, int((left + right) / 2 * COLUMNS)))
            columns = slice(start, stop) if stop > start else slice(middle, middle + 1)
            cells[row, word, place, min(first, ROWS - 1) : last + 1, columns] = True
            classes[row, word, place] = LETTERS.index(letter)
    return cells.flatten(-2), classes


def train_letters(projector: Projector, folder: Path, steps: int, keep: Callable[[], None]) -> None:
    """Fit the reader to where each letter was drawn and what it is; other pictures teach it to stay silent."""
    rows, features = load_rows(folder, "words-train-*.pt")
    for pattern in ("stamps-train-0.pt", "shapes-train.pt"):
        more, extra = load_rows(folder, pattern)
        picked = [i for i, r in enumerate(more) if not re.search(r"letter|sign|symbol", r["captions"][0].lower())][:300]
        rows += [more[i] for i in picked]
        features = {n: torch.cat([features[n], extra[n][picked]]) for n in ("fine", "middle")}
    reader = projector.reader
    cells, classes = letter_targets(rows, reader.words, reader.places)
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
    descend([{"params": rest, "lr": 2e-3, "weight_decay": 0.02}], steps, loss_of, "letters", 100, keep)


def teaching(projector: Projector, tower: Any, vocabulary: Vocabulary, folder: Path) -> dict[str, Pictures]:
    """What the language stage is shown: stamps in every view, shapes, written words."""
    shown: dict[str, Pictures] = {}
    for name, pattern in (("shapes", "shapes-train.pt"), ("words", "words-train-[01].pt")):
        rows, features = load_rows(folder, pattern)
        kept = in_lexicon(rows, vocabulary)
        shown[name] = pictures(features, spoken(rows), tower, projector).pick(kept)
    for name in ("stamps-train-0", "stamps-train-1", "stamps-train-2", "stamps-train-3", "emoji-train-modern"):
        rows, features = load_rows(folder, f"{name}.pt")
        shown[name] = pictures(features, spoken(rows), tower, projector)
    return shown


def train_language(projector: Projector, shown: dict[str, Pictures], score: Likelihood, steps: int,
                   keep: Callable[[], None], batch: int = 12, ways: int = 4) -> None:  # fmt: skip
    """Tune through the frozen language model: say the true answer, and prefer it to the answers of other pictures."""
    rng = random.Random(3)
    torch.manual_seed(3)
    stamp, drawn = [f"stamps-train-{view}" for view in range(4)], "emoji-train-modern"
    kinds = (
        stamp[0],
        drawn,
        "words",
        stamp[1],
        drawn,
        stamp[0],
        "shapes",
        stamp[2],
        drawn,
        stamp[0],
        "words",
        stamp[3],
    )

    def loss_of(step: int) -> Tensor:
        kind = kinds[step % len(kinds)]
        pool = shown[kind]
        part = pool.pick(rng.sample(range(len(pool.answers)), batch))
        question = rng.choice(READ_VARIANTS if kind == "words" else SHOW_VARIANTS)
        final = F.dropout2d(part.final.float(), 0.3 if "train" in kind else 0.05)
        image = projector.compose(final, part.class_logits, part.found, score.table)
        sums, lengths = score(image, question, rivals(part.answers, pool.answers, ways, rng))
        say, choose = contrast_loss(sums, lengths)
        if step % 10 == 9:
            print(f"  {kind} say {say.item():.3f} choose {choose.item():.3f}", flush=True)
        return say + choose

    reader, objects = projector.reader, projector.objects
    free = [projector.frame, projector.unwritten, projector.quadrant_place, *projector.quadrant.parameters()]
    slow = [*objects.parameters()]
    descend([{"params": free, "lr": 3e-3, "weight_decay": 0.0}, {"params": slow, "lr": 2e-4, "weight_decay": 0.05},
             {"params": [reader.commonness, reader.nothing], "lr": 1e-2, "weight_decay": 0.0}],
            steps, loss_of, "language", 20, keep)  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, help="folder of the tuxpaint stamps (stage cache)")
    parser.add_argument("--emoji", type=Path, help="unpacked npm package fluentui-emoji (stage cache)")
    parser.add_argument("--work", type=Path, required=True, help="folder for cached features and checkpoints")
    parser.add_argument("--stage", choices=("cache", "words", "letters", "language", "measure", "ship"), required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--start", type=Path, help="checkpoint to start from")
    parser.add_argument("--reader", type=Path, help="checkpoint to take the reader's parameters from")
    parser.add_argument("--save", type=Path, help="checkpoint to write")
    parser.add_argument("--report", type=Path, help="what the measure stage wrote, for the model card")
    parser.add_argument("--trials", type=int, default=3, help="candidate sets drawn per held-out image")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.stage == "cache" and (options.stamps is None or options.emoji is None):
        parser.error("the stage cache needs --stamps and --emoji")
    return options


def lexicon_words(tokenizer: Any) -> list[str]:
    """Words to draw: whole-word tokens of three to twelve letters, common ones first."""
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return [token[1:] for token, _ in ordered if re.fullmatch("Ġ[a-z]{3,12}", token)]


def vocabulary_of(tokenizer: Any, folder: Path) -> Vocabulary:
    """The words of the training captions, of the ImageNet classes, and plain nouns."""
    rows = [*load_rows(folder, "stamps-train-0.pt")[0], *load_rows(folder, "emoji-train-*.pt")[0]]
    class_words = json.loads(Path(__file__).with_name("imagenet_words.json").read_text())
    nouns = Path(__file__).with_name("picture_nouns.txt").read_text().split()
    return Vocabulary(tokenizer, [r["captions"][0] for r in rows], class_words, nouns)


def main() -> None:
    """Run one stage."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.stage == "ship":
        ship(torch.load(options.start, weights_only=True), json.loads(options.report.read_text()))
        return
    sources = find_sources()
    language = SmolLM2File(sources.language_model)
    tokenizer, tower, folder = language.tokenizer(), load_tower(sources), options.work / "features"
    if options.stage == "cache":
        cache_all(options.stamps, options.emoji, lexicon_words(tokenizer), tower, folder)
        return
    vocabulary = vocabulary_of(tokenizer, folder)
    language_model = LlamaForCausalLM(language.config())
    language_model.load_state_dict(language.state(), strict=False)
    language_model.tie_weights()
    score = Likelihood(language_model, tokenizer)
    projector = fresh_projector(vocabulary, language_model, tokenizer)
    for path, part in ((options.start, ""), (options.reader, "reader.")):
        if path is not None:
            load_parameters(projector, path, part)

    def keep() -> None:
        torch.save(projector.state_dict(), options.save)

    if options.stage == "measure":
        report = measure(projector.eval(), tower, vocabulary, score, folder, options.trials)
        options.save.write_text(json.dumps(report, indent=2) + "\n")
        return
    if options.stage == "words":
        train_words(projector, tower, vocabulary, folder, options.steps)
    elif options.stage == "letters":
        train_letters(projector, folder, options.steps, keep)
    else:
        train_language(projector, teaching(projector, tower, vocabulary, folder), score, options.steps, keep)
    keep()


if __name__ == "__main__":
    main()
