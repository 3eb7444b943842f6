"""What the projector starts from: its vocabulary of words, their meanings, its first values."""

import re
from pathlib import Path
from typing import Any

import torch
from projector_data import COLOURS, COUNTS, SHAPES
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from safer_steer.embedded.projector import BLANK, LETTERS, Projector

SMALL = """a an the of in on for and or with to is are it its from that this by at as used one's his her their you can
was were be has have not very called known also often which made into our us so some"""
SMALL_WORDS = frozenset(SMALL.split())
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

    def __init__(self, tokenizer: Any, captions: list[str], class_words: list[list[str]], nouns: list[str]) -> None:
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
        projector.frame.copy_(torch.stack([embedding(" picture"), embedding(" words")]))
        projector.unwritten.copy_(embedding(" -"))
    return projector


def load_parameters(projector: Projector, path: Path, part: str) -> None:
    """Take the parameters whose names start with `part` from a checkpoint; buffers follow from the vocabulary."""
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in projector.named_parameters():
            if name.startswith(part) and name in state:
                parameter.copy_(state[name])
