"""From what the vision tower sees to what the language model reads: soft words.

An image becomes a short, fixed run of input embeddings:

    frame · K object words · frame · W written words · a word for each quarter

All are convex mixes of the language model's own input embeddings (plus a small learned offset for each place), so
that a frozen language model reads them natively. Object words come from the ImageNet head and from closeness in
meaning: the K likeliest words of a vocabulary, each found after the ones before it were taken away. Written words
come from a reader of strokes, which finds the letters on the picture and scores every whole-word token of the
language model's vocabulary by its spelling.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safer_steer.embedded.vision import HEAD_WIDTH, VisionFeatures, stage_widths

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLANK = len(LETTERS)  # the class of a place after a word's end
ROWS, COLUMNS = 16, 32  # the reader's grid: cells 16 pixels high and 8 wide on a picture of side 256
QUARTERS = 4


def views(final: Tensor) -> Tensor:
    """(B, 5, 1280): the mean of the final features (B, 1280, S, S) over the whole picture, then over each quarter."""
    quarters = F.adaptive_avg_pool2d(final, 2).flatten(2).transpose(1, 2)
    return torch.cat([final.mean((-2, -1)).unsqueeze(1), quarters], 1)


class ObjectWords(nn.Module):
    """Words for what is shown: the ImageNet head's evidence, and closeness in meaning to what the tower sees.

    `meanings` places every word of the vocabulary in a space made from the language model's hidden states; `meaning`
    maps pooled features into it, so that words which no training caption contains are reached through neighbours.
    """

    class_words: Tensor  # (classes, words_per_class): vocabulary indices of the words in a class's name; -1 is none
    word_pieces: Tensor  # (vocabulary, pieces): token ids of each word; -1 is none
    meanings: Tensor  # (vocabulary, meaning): unit vectors

    def __init__(
        self, vocabulary: int, classes: int, pieces: int, words_per_class: int, meaning: int, words: int
    ) -> None:
        super().__init__()
        self.words = words
        self.meaning = nn.Linear(HEAD_WIDTH, meaning)
        self.trust = nn.Parameter(torch.tensor(0.5))
        self.sharpness = nn.Parameter(torch.tensor(20.0))
        self.sharpness_of_quarters = nn.Parameter(torch.tensor(20.0))
        self.register_buffer("class_words", torch.full((classes, words_per_class), -1, dtype=torch.int32))
        self.register_buffer("word_pieces", torch.full((vocabulary, pieces), -1, dtype=torch.int32))
        self.register_buffer("meanings", torch.zeros(vocabulary, meaning))

    def named(self, class_logits: Tensor) -> Tensor:
        """(B, vocabulary): the ImageNet probability (B, classes) of the classes that a word names."""
        known = self.class_words >= 0
        mass = class_logits.new_zeros(class_logits.shape[0], len(self.meanings))
        probabilities = class_logits.softmax(-1)
        for column in range(self.class_words.shape[1]):
            rows = known[:, column]
            mass = mass.index_add(1, self.class_words[rows, column].long(), probabilities[:, rows])
        return mass

    def logits(self, meant: Tensor, class_logits: Tensor) -> Tensor:
        """(B, vocabulary) logits of words for the whole picture, from its meaning (B, meaning) and ImageNet logits."""
        close = self.sharpness * (meant @ self.meanings.T)
        evidence: Tensor = close + self.trust * (self.named(class_logits) + 1e-4).log()
        return evidence

    def embeddings(self, table: Tensor) -> Tensor:
        """(vocabulary, width): each word as the mean of its pieces in the language model's embedding `table`."""
        known = (self.word_pieces >= 0).to(table.dtype)
        shares = known / known.sum(1, keepdim=True).clamp(min=1)
        bags = self.word_pieces.clamp(min=0).long()
        return F.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)

    def forward(self, meant: Tensor, class_logits: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, width): the likeliest word, then the likeliest of what is left, and so on; and (B, 4, width).

        `meant` (B, 5, meaning) is what `meaning` makes of the `views`; the second result has a word for each quarter.
        """
        words = self.embeddings(table)
        quarters = (self.sharpness_of_quarters * (meant[:, 1:] @ self.meanings.T)).softmax(-1) @ words
        logits = self.logits(meant[:, 0], class_logits)
        mixes = []
        for _ in range(self.words):
            probabilities = logits.softmax(-1)
            mixes.append(probabilities @ words)
            logits = logits + torch.log1p(-probabilities.clamp(max=1 - 1e-4))
        return torch.stack(mixes, 1), quarters


class ReaderBlock(nn.Module):
    """Mix along rows and columns, nearby and far, then across channels."""

    def __init__(self, width: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.near = nn.Conv2d(width, width, (3, 7), padding=(1, 3), groups=width)
        self.along = nn.Parameter(torch.randn(groups, COLUMNS, COLUMNS) * 0.02)
        self.across = nn.Parameter(torch.randn(groups, ROWS, ROWS) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, rows, columns) to the same shape."""
        split = x.unflatten(1, (self.groups, -1))
        far = torch.einsum("bgcij,gjk->bgcik", split, self.along) + torch.einsum("bgcij,gik->bgckj", split, self.across)
        x = x + self.near(x) + far.flatten(1, 2)
        y = self.outer(F.gelu(self.inner(self.norm(x.movedim(1, -1)))))
        return x + y.movedim(-1, 1)


class Reader(nn.Module):
    """Where the letters of each written word are, what they are, and which word they spell."""

    spelling: Tensor  # (lexicon, letters): letter classes of each word, BLANK after its end; entry 0 is no word
    token: Tensor  # (lexicon,): the language model's token for each word; ids grow as words get rarer

    def __init__(self, fine: int, middle: int, width: int, blocks: int, words: int, letters: int, lexicon: int) -> None:
        super().__init__()
        self.words, self.places = words, letters
        self.enter = nn.Linear(2 * fine + middle, width)
        self.position = nn.Parameter(torch.zeros(width, ROWS, COLUMNS))
        self.blocks = nn.ModuleList(ReaderBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.where = nn.Linear(width, words * letters)
        self.what = nn.Linear(width, len(LETTERS))
        self.absent = nn.Parameter(torch.zeros(words * letters))
        self.commonness = nn.Parameter(torch.tensor(0.3))
        self.nothing = nn.Parameter(torch.zeros(()))
        self.register_buffer("spelling", torch.full((lexicon, letters), BLANK, dtype=torch.int8))
        self.register_buffer("token", torch.zeros(lexicon, dtype=torch.int32))

    def grid(self, fine: Tensor, middle: Tensor) -> Tensor:
        """(B, rows, columns, channels) input of the reader: fine features in pairs of rows, beside middle ones."""
        size = (ROWS, COLUMNS)
        pairs = F.adaptive_avg_pool2d(fine, (2 * ROWS, COLUMNS)).unflatten(2, (ROWS, 2)).movedim(3, 2).flatten(1, 2)
        return torch.cat([pairs, F.interpolate(middle, size, mode="nearest")], 1).movedim(1, -1)

    def find(self, fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Attention (B, words, letters, cells + 1), the last being "no such letter", and letters there (…, 27)."""
        x = self.enter(self.grid(fine, middle)).movedim(-1, 1) + self.position
        for block in self.blocks:
            x = block(x)
        cells = self.norm(x.flatten(2).transpose(1, 2))
        places = self.where(cells).transpose(1, 2)
        absent = self.absent.expand(len(places), -1).unsqueeze(-1)
        attention = torch.cat([places, absent], -1).softmax(-1)
        letters = attention[..., :-1] @ self.what(cells).softmax(-1)
        found = torch.cat([letters, attention[..., -1:]], -1)
        shape = (self.words, self.places)
        return attention.unflatten(1, shape), found.unflatten(1, shape)

    def spell(self, found: Tensor) -> Tensor:
        """(B, words, lexicon) probabilities of the words from the letters `found` (B, words, letters, 27)."""
        log_letters = (found + 1e-4).log()
        scores = log_letters.new_zeros(*found.shape[:2], len(self.spelling))
        for place in range(self.places):
            scores = scores + log_letters[:, :, place].index_select(-1, self.spelling[:, place].int())
        rank = self.token.float().clamp(min=1).log()
        prior = torch.where(self.spelling[:, 0] == BLANK, self.nothing, -self.commonness * rank)
        probabilities: Tensor = (scores + prior).softmax(-1)
        return probabilities


class Projector(nn.Module):
    """Everything between the tower and the language model. See the module's text for the order of the tokens."""

    def __init__(
        self,
        *,
        width: int,
        vision_width: float,
        vocabulary: int,
        lexicon: int,
        classes: int = 1000,
        object_words: int = 6,
        written_words: int = 4,
        letters: int = 12,
        pieces: int = 4,
        words_per_class: int = 6,
        meaning: int = 128,
        reader_width: int = 96,
        reader_blocks: int = 4,
    ) -> None:
        super().__init__()
        fine, middle = (stage_widths(vision_width)[stage] for stage in (2, 4))
        self.objects = ObjectWords(vocabulary, classes, pieces, words_per_class, meaning, object_words)
        self.reader = Reader(fine, middle, reader_width, reader_blocks, written_words, letters, lexicon)
        self.frame = nn.Parameter(torch.zeros(2, width))
        self.unwritten = nn.Parameter(torch.zeros(width))
        self.tokens = object_words + written_words + QUARTERS + 2
        self.offset = nn.Parameter(torch.zeros(self.tokens, width))

    def written(self, spelled: Tensor, table: Tensor) -> Tensor:
        """(B, W, width) written words as mixes of token embeddings; a learned vector where nothing is written."""
        blank = (self.reader.spelling[:, 0] == BLANK).unsqueeze(-1)
        words = torch.where(blank, self.unwritten, table[self.reader.token.long()])
        return spelled @ words

    def compose(self, meant: Tensor, class_logits: Tensor, found: Tensor, table: Tensor) -> Tensor:
        """(B, tokens, width) from the meanings of the views, ImageNet logits and the letters that the reader found."""
        table = table.detach()
        shown, quarters = self.objects(meant, class_logits, table)
        written = self.written(self.reader.spell(found), table)
        frame = self.frame.expand(len(shown), -1, -1)
        return torch.cat([frame[:, :1], shown, frame[:, 1:], written, quarters], 1) + self.offset

    def forward(self, features: VisionFeatures, class_logits: Tensor, table: Tensor) -> Tensor:
        """(B, tokens, width) input embeddings; `table` is the language model's input embedding matrix."""
        _, found = self.reader.find(features.fine, features.middle)
        return self.compose(self.objects.meaning(views(features.final)), class_logits, found, table)
