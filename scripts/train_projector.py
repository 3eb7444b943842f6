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
from projector_cache import cache_all
from projector_data import COLOURS, COUNTS, SHAPES
from projector_language import (
    READ_VARIANTS,
    SHOW_VARIANTS,
    Likelihood,
    Pictures,
    contrast_loss,
    pictures,
    rivals,
)
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from safer_steer.embedded.build import find_sources, load_tower
from safer_steer.embedded.gguf_weights import SmolLM2File
from safer_steer.embedded.projector import BLANK, COLUMNS, LETTERS, ROWS, Projector

SMALL_WORDS = frozenset(
    "a an the of in on for and or with to is are it its from that this by at as used one's his her their you can "
    "was were be has have not very called known also often which made into our us so some".split()
)
WIDTH, VISION_WIDTH, VISION_DEPTH = 576, 1.1, 1.2
MEANING_LAYER, MEANING_WIDTH = 10, 128
MAX_PIECES = 4


def content_words(caption: str) -> list[str]:
    """The words of a caption that say what is shown.

    >>> content_words("A red fire-truck of the town.")
    ['red', 'fire', 'truck', 'town']
    """
    return [w for w in re.findall(r"[a-z]+", caption.lower()) if w not in SMALL_WORDS and len(w) > 1]


class Vocabulary:
    """Object words and the reader's lexicon, as the projector's buffers hold them."""

    def __init__(
        self, tokenizer: Any, captions: list[str], class_words: list[list[str]], nouns: list[str]
    ) -> None:
        vocab: dict[str, int] = tokenizer.get_vocab()
        spelled = sorted((i, t[1:]) for t, i in vocab.items() if re.fullmatch("Ġ[a-z]{1,12}", t))
        self.lexicon = ["", *(w for _, w in spelled)]
        self.token = torch.tensor([0, *(i for i, _ in spelled)], dtype=torch.int32)
        codes = [[LETTERS.index(c) for c in w] + [BLANK] * (12 - len(w)) for w in self.lexicon]
        self.spelling = torch.tensor(codes, dtype=torch.int8)
        own = [*COLOURS, *SHAPES, *(s + "s" for s in SHAPES), *COUNTS.values(), "crosses", "word", "words", "letter"]
        pieces = {w: tokenizer.encode(" " + w, add_special_tokens=False) for ws in class_words for w in ws}
        named = [[w for i, w in enumerate(ws) if i == 0 or len(pieces[w]) <= 2] for ws in class_words]
        captioned = {w for c in captions for w in content_words(c)}
        self.words = sorted(captioned.union(own, nouns, *named))
        index = {w: i for i, w in enumerate(self.words)}
        self.index = index
        self.class_words = padded([[index[w] for w in ws] for ws in named], 6)
        spellings = [tokenizer.encode(" " + w, add_special_tokens=False)[:MAX_PIECES] for w in self.words]
        self.word_pieces = padded(spellings, MAX_PIECES)


def padded(rows: list[list[int]], width: int) -> Tensor:
    """Integer rows as one int32 tensor, -1 where a row is short."""
    return torch.tensor([r[:width] + [-1] * (width - len(r)) for r in rows], dtype=torch.int32)


@torch.no_grad()
def word_meanings(words: list[str], language_model: LlamaForCausalLM, tokenizer: Any) -> Tensor:
    """(words, 128) unit vectors: hidden states after "a picture of a <word>", standardised, in principal components."""
    states = []
    for low in range(0, len(words), 128):
        coded = [tokenizer.encode(f"a picture of a {w}", add_special_tokens=False) for w in words[low : low + 128]]
        longest = max(map(len, coded))
        ids = torch.tensor([c + [2] * (longest - len(c)) for c in coded])
        hidden = language_model.model(ids, output_hidden_states=True).hidden_states[MEANING_LAYER]
        states.append(hidden[torch.arange(len(coded)), torch.tensor([len(c) - 1 for c in coded])])
    raw = torch.cat(states)
    raw = F.normalize((raw - raw.mean(0)) / raw.std(0), dim=-1)
    torch.manual_seed(0)
    _, _, directions = torch.pca_lowrank(raw, q=MEANING_WIDTH, niter=4)
    return F.normalize(raw @ directions, dim=-1)


def fresh_projector(vocabulary: Vocabulary, language_model: LlamaForCausalLM, tokenizer: Any) -> Projector:
    """A projector that already names what the ImageNet head sees, before any training."""
    table = language_model.get_input_embeddings().weight.detach()
    torch.manual_seed(0)
    projector = Projector(width=WIDTH, vision_width=VISION_WIDTH, vocabulary=len(vocabulary.words),
                          lexicon=len(vocabulary.lexicon))  # fmt: skip
    objects, reader = projector.objects, projector.reader
    objects.class_words.copy_(vocabulary.class_words)
    objects.word_pieces.copy_(vocabulary.word_pieces)
    objects.meanings.copy_(word_meanings(vocabulary.words, language_model, tokenizer))
    reader.spelling.copy_(vocabulary.spelling)
    reader.token.copy_(vocabulary.token)

    def embedding(text: str) -> Tensor:
        return table[tokenizer.encode(text, add_special_tokens=False)].mean(0)

    with torch.no_grad():
        projector.quadrant.weight.zero_()
        projector.quadrant.bias.zero_()
        projector.frame.copy_(torch.stack([embedding(" picture"), embedding(" words")]))
        projector.unwritten.copy_(embedding(" -"))
        projector.quadrant_place.copy_(embedding(",").expand_as(projector.quadrant_place))
    return projector


def load_rows(folder: Path, pattern: str) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The cached rows and features of every file that matches."""
    files = [torch.load(path, weights_only=True) for path in sorted(folder.glob(pattern))]
    names = set.intersection(*(set(f) - {"rows"} for f in files))
    return [r for f in files for r in f["rows"]], {n: torch.cat([f[n] for f in files]) for n in names}


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
    rows += more + text[:300]
    parts = (features["final"], shape_features["final"], text_features["final"][:300])
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
    """Fit the reader to where each letter was drawn and what it is; pictures without writing teach it to stay silent."""
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


def spoken(rows: list[dict[str, Any]]) -> list[str]:
    """The answer that each picture should get: its caption, or the words written on it."""
    return [" ".join(r["words"]) if r["words"] else r["captions"][0] for r in rows]


def in_lexicon(rows: list[dict[str, Any]], vocabulary: Vocabulary) -> list[int]:
    """Rows whose words can all be spelled by the lexicon."""
    known = set(vocabulary.lexicon)
    return [i for i, r in enumerate(rows) if all(w in known for w in r["words"])]


def teaching(projector: Projector, tower: Any, vocabulary: Vocabulary, folder: Path) -> dict[str, Pictures]:
    """What the language stage is shown: stamps in every view, shapes, written words."""
    shown: dict[str, Pictures] = {}
    for name, pattern in (("shapes", "shapes-train.pt"), ("words", "words-train-*.pt")):
        rows, features = load_rows(folder, pattern)
        kept = in_lexicon(rows, vocabulary)
        shown[name] = pictures(features, spoken(rows), tower, projector).pick(kept)
    for view in range(4):
        rows, features = load_rows(folder, f"stamps-train-{view}.pt")
        shown[f"stamps{view}"] = pictures(features, spoken(rows), tower, projector)
    return shown


def train_language(projector: Projector, shown: dict[str, Pictures], score: Likelihood, steps: int,
                   keep: Callable[[], None], batch: int = 12, ways: int = 4) -> None:  # fmt: skip
    """Tune through the frozen language model: say the true answer, and prefer it to the answers of other pictures."""
    rng = random.Random(3)
    torch.manual_seed(3)
    kinds = ("stamps0", "stamps1", "words", "stamps0", "stamps2", "shapes", "stamps0", "stamps3", "words")

    def loss_of(step: int) -> Tensor:
        kind = kinds[step % len(kinds)]
        pool = shown[kind]
        part = pool.pick(rng.sample(range(len(pool.answers)), batch))
        question = rng.choice(READ_VARIANTS if kind == "words" else SHOW_VARIANTS)
        final = F.dropout2d(part.final.float(), 0.3 if kind.startswith("stamps") else 0.05)
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
    parser.add_argument("--stamps", type=Path, required=True, help="folder of the tuxpaint stamps")
    parser.add_argument("--work", type=Path, required=True, help="folder for cached features and checkpoints")
    parser.add_argument("--stage", choices=("cache", "words", "letters", "language"), required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--start", type=Path, help="checkpoint to start from")
    parser.add_argument("--reader", type=Path, help="checkpoint to take the reader's parameters from")
    parser.add_argument("--save", type=Path, help="checkpoint to write")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Run one stage."""
    options = arguments()
    torch.set_num_threads(options.threads)
    sources = find_sources()
    language = SmolLM2File(sources.language_model)
    tokenizer = language.tokenizer()
    tower = load_tower(sources)
    folder = options.work / "features"
    class_words = json.loads(Path(__file__).with_name("imagenet_words.json").read_text())
    nouns = Path(__file__).with_name("picture_nouns.txt").read_text().split()
    if options.stage == "cache":
        words = [t[1:] for t, _ in sorted(tokenizer.get_vocab().items(), key=lambda x: x[1]) if re.fullmatch("Ġ[a-z]{3,12}", t)]
        cache_all(options.stamps, words, tower, folder, views=4, text_shards=6)
        return
    captions = [r["captions"][0] for r in load_rows(folder, "stamps-train-0.pt")[0]]
    vocabulary = Vocabulary(tokenizer, captions, class_words, nouns)
    language_model = LlamaForCausalLM(language.config())
    language_model.load_state_dict(language.state(), strict=False)
    language_model.tie_weights()
    projector = fresh_projector(vocabulary, language_model, tokenizer)
    if options.start:
        projector.load_state_dict(torch.load(options.start, weights_only=True))
    if options.reader:
        state = torch.load(options.reader, weights_only=True)
        trained = {n: state[f"reader.{n}"] for n, _ in projector.reader.named_parameters()}
        projector.reader.load_state_dict(trained, strict=False)

    def keep() -> None:
        torch.save(projector.state_dict(), options.save)

    if options.stage == "words":
        train_words(projector, tower, vocabulary, folder, options.steps)
    elif options.stage == "letters":
        train_letters(projector, folder, options.steps, keep)
    elif options.stage == "language":
        shown = teaching(projector, tower, vocabulary, folder)
        train_language(projector, shown, Likelihood(language_model, tokenizer), options.steps, keep)
    keep()


if __name__ == "__main__":
    main()
