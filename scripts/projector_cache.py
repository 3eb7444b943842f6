"""Run the frozen tower once over every training picture and keep what it saw, so that training never runs it."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from projector_data import (
    HELD_OUT_FONTS,
    TRAIN_FONTS,
    Sample,
    bucket,
    emoji,
    open_stamp,
    place,
    rendered_letters,
    rendered_words,
    shapes,
    stamps,
)
from torch.nn import functional as F

from safer_steer.embedded.vision import EfficientNetLite

INPUT_SIDE = 256
BATCH = 32
STAMP_VIEWS, TEXT_SHARDS = 4, 4


def pixels_of(image: Image.Image) -> torch.Tensor:
    """(3, 256, 256) as the processor makes it of a square picture."""
    small = image.convert("RGB").resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() - 127) / 128


@torch.inference_mode()
def cache(samples: Iterable[Sample], tower: EfficientNetLite, target: Path, strokes: bool) -> None:
    """Write one file: pooled final features (n, 1280, 4, 4) and, with `strokes`, the fine and middle ones."""
    if target.exists():
        return
    stream: Iterator[Sample] = iter(samples)
    rows: dict[str, list[torch.Tensor]] = {"final": [], "fine": [], "middle": []}
    kept: list[dict[str, object]] = []
    while batch := list(islice(stream, BATCH)):
        pixels = torch.stack([pixels_of(s.image) for s in batch]).contiguous(memory_format=torch.channels_last)
        seen = tower(pixels)
        rows["final"].append(F.adaptive_avg_pool2d(seen.final, 4).half())
        if strokes:
            rows["fine"].append(seen.fine.half().contiguous())
            rows["middle"].append(seen.middle.half().contiguous())
        kept += [{"captions": s.captions, "key": s.key, "words": s.words,
                  "letters": [(a.word, a.place, a.letter, a.box) for a in s.letters]} for s in batch]  # fmt: skip
    tensors = {name: torch.cat(parts) for name, parts in rows.items() if parts}
    torch.save({"rows": kept, **tensors}, target.with_suffix(".part"))
    target.with_suffix(".part").rename(target)
    print("cached", target.name, len(kept), flush=True)


def stamp_views(root: Path, split: str, view: int) -> Iterator[Sample]:
    """The stamps of a split: view 0 centred on white, later views moved, turned, coloured."""
    for path, caption, found in stamps(root):
        if found == split and (picture := open_stamp(path)) is not None:
            rng = random.Random(f"{path.name}-{view}") if view else None
            yield Sample(place(picture, rng), (caption,), str(path.relative_to(root)))


def emoji_views(root: Path, style: str) -> Iterator[Sample]:
    """The emoji of a style, moved, turned and coloured."""
    for path, caption in emoji(root, style):
        if (picture := open_stamp(path)) is not None:
            rng = random.Random(f"{path.name}-{style}")
            yield Sample(place(picture, rng), (caption,), f"emoji/{style}/{path.name}")


def split_words(vocabulary: list[str]) -> tuple[list[str], list[str]]:
    """Words for training, and a tenth that is never drawn in training."""
    return [w for w in vocabulary if bucket(w, 10)], [w for w in vocabulary if not bucket(w, 10)]


def cache_all(root: Path, emoji_root: Path, vocabulary: list[str], tower: EfficientNetLite, folder: Path) -> None:
    """Every file the training reads, in the order in which it is wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("test", "choose"):
        cache(stamp_views(root, split, 0), tower, folder / f"stamps-{split}.pt", True)
    train_words, new_words = split_words(vocabulary)
    pictures = [place(p, None).resize((256, 256)) for f, _, s in stamps(root) if s == "train" and (p := open_stamp(f))]
    for view in range(STAMP_VIEWS):
        cache(stamp_views(root, "train", view), tower, folder / f"stamps-train-{view}.pt", view == 0)
    cache(shapes(600, 11), tower, folder / "shapes-train.pt", True)
    cache(shapes(100, 12), tower, folder / "shapes-test.pt", False)
    cache(emoji_views(emoji_root, "modern"), tower, folder / "emoji-train-modern.pt", False)
    for name, words, fonts, seed in (
        ("known", train_words, TRAIN_FONTS, 21),
        ("new-words", new_words, TRAIN_FONTS, 22),
        ("new-fonts", train_words, HELD_OUT_FONTS, 23),
        ("new-both", new_words, HELD_OUT_FONTS, 24),
    ):
        cache(rendered_words(150, words, fonts, seed), tower, folder / f"words-test-{name}.pt", True)
    cache(rendered_letters(520, TRAIN_FONTS, 31), tower, folder / "letters-train.pt", True)
    for shard in range(TEXT_SHARDS):
        samples = rendered_words(1000, train_words, TRAIN_FONTS, 100 + shard, pictures)
        cache(samples, tower, folder / f"words-train-{shard}.pt", True)


def load_rows(folder: Path, pattern: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The cached rows and features of every file that matches."""
    files = [torch.load(path, weights_only=True) for path in sorted(folder.glob(pattern))]
    names = set.intersection(*(set(f) - {"rows"} for f in files))
    return [r for f in files for r in f["rows"]], {n: torch.cat([f[n] for f in files]) for n in names}
