"""The frozen language model as teacher and as judge: the likelihood of captions given an image."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from safer_steer.embedded.projector import BLANK, Projector, views

SHOW = "What is in the picture?"
READ = "What is written in the picture?"
SHOW_VARIANTS = (
    SHOW,
    SHOW,
    "Describe the picture.",
    "What does the image show?",
    "Describe this image in a few words.",
)
READ_VARIANTS = (READ, READ, "What does the text say?", "Read the text in the image.")


@dataclass(frozen=True)
class Pictures:
    """Cached pictures of one kind: features, what the reader found, and a true answer for each."""

    meant: Tensor  # (n, 5, meaning): where the whole picture and its quarters fall in the space of meanings
    class_logits: Tensor  # (n, classes)
    found: Tensor  # (n, words, letters, 27)
    answers: list[str]

    def pick(self, rows: list[int]) -> "Pictures":
        """A subset, in the order given."""
        return Pictures(self.meant[rows], self.class_logits[rows], self.found[rows], [self.answers[r] for r in rows])


@torch.no_grad()
def pictures(
    features: dict[str, Tensor], answers: list[str], tower: Any, projector: Projector, meant: Tensor | None = None
) -> Pictures:
    """`Pictures` from cached features; without cached strokes the reader is taken to have found nothing.

    Pass `meant` when the meanings come from a map that was not fitted to these pictures.
    """
    pooled = torch.cat([views(part.float()) for part in features["final"].split(256)])
    class_logits = tower.classifier(pooled[:, 0])
    meant = projector.objects.meaning(pooled) if meant is None else meant
    reader = projector.reader
    if "fine" in features:
        pairs = zip(features["fine"].split(64), features["middle"].split(64), strict=True)
        found = torch.cat([reader.find(fine.float(), middle.float())[1] for fine, middle in pairs])
    else:
        found = torch.zeros(len(pooled), reader.words, reader.places, BLANK + 1)
        found[..., BLANK] = 1
    return Pictures(meant, class_logits, found, answers)


class Likelihood:
    """Log-likelihoods of several answers to one question about each image, in one pass with a shared prefix."""

    def __init__(self, language_model: LlamaForCausalLM, tokenizer: Any) -> None:
        self.model = language_model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.table = language_model.get_input_embeddings().weight

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def prefix(self, image: Tensor, question: str) -> Tensor:
        """(B, P, width): the prompt up to the answer, around the image's embeddings (B, N, width)."""
        before, after = (
            self.tokens("<|im_start|>user\n"),
            self.tokens(f"\n{question}<|im_end|>\n<|im_start|>assistant\n"),
        )
        parts = [self.table[before].expand(len(image), -1, -1), image, self.table[after].expand(len(image), -1, -1)]
        return torch.cat(parts, 1)

    def __call__(self, image: Tensor, question: str, answers: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Summed log-likelihood and length in tokens, both (B, K), of answers[b][k]; the end token is counted."""
        count = len(answers[0])
        coded = [[[*self.tokens(text), 2] for text in row] for row in answers]
        longest = max(len(ids) for row in coded for ids in row)
        ids = torch.tensor([[c + [0] * (longest - len(c)) for c in row] for row in coded])
        lengths = torch.tensor([[len(c) for c in row] for row in coded])
        prefix = self.prefix(image, question)
        start = prefix.shape[1]
        inputs = torch.cat([prefix, F.embedding(ids[:, :, :-1].flatten(1), self.table)], 1)
        mask, positions = packed(start, count, longest - 1)
        hidden = self.model.model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False)[0]
        first = hidden[:, start - 1 : start].unsqueeze(1).expand(-1, count, -1, -1)
        states = torch.cat([first, hidden[:, start:].unflatten(1, (count, longest - 1))], 2)
        wanted = torch.arange(longest) < lengths.unsqueeze(-1)
        losses = F.cross_entropy(self.model.lm_head(states[wanted]), ids[wanted], reduction="none")
        return -torch.zeros(wanted.shape).masked_scatter(wanted, losses).sum(-1), lengths


def packed(start: int, count: int, each: int) -> tuple[Tensor, Tensor]:
    """Mask (1, 1, L, L) and positions (1, L): a causal prefix, then blocks that see the prefix and themselves only.

    >>> packed(1, 2, 1)[0][0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    owner = torch.cat([torch.full((start,), -1), torch.arange(count).repeat_interleave(each)])
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    mask = causal & ((owner.unsqueeze(1) == owner) | (owner == -1))
    positions = torch.cat([torch.arange(start), start + torch.arange(each).repeat(count)])
    return mask[None, None], positions[None]


def rivals(answers: list[str], pool: list[str], count: int, rng: random.Random) -> list[list[str]]:
    """Each answer first, then `count` - 1 different ones from the pool."""
    pool = sorted(set(pool))
    rows = []
    for answer in answers:
        rows.append([answer, *rng.sample([p for p in pool if p != answer], count - 1)])
    return rows


def contrast_loss(sums: Tensor, lengths: Tensor, sharpness: float = 4.0) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood per token of the true answers (column 0), and the loss of choosing them."""
    means = sums / lengths
    target = torch.zeros(len(means), dtype=torch.long)
    return -means[:, 0].mean(), F.cross_entropy(means * sharpness, target)


def composed(projector: Projector, shown: Pictures, table: Tensor) -> Tensor:
    """(n, tokens, width) what the language model is given for each picture."""
    return projector.compose(shown.meant, shown.class_logits, shown.found, table)


@torch.no_grad()
def prior(score: Likelihood, images: Tensor, answers: list[str], question: str, together: int = 8) -> dict[str, float]:
    """Log-likelihood per token of each different answer, in the mean over `images` (n, tokens, width) of others.

    What an answer scores whatever is shown: "A yellow flag." is likelier than "Rugby goal posts." before any look.
    """
    found: dict[str, float] = {}
    different = sorted(set(answers))
    for low in range(0, len(different), together):
        part = different[low : low + together]
        sums, lengths = score(images, question, [part] * len(images))
        found.update(zip(part, (sums / lengths).mean(0).tolist(), strict=True))
    return found


@torch.no_grad()
def match(
    score: Likelihood,
    projector: Projector,
    shown: Pictures,
    others: Pictures,
    question: str,
    ways: int,
    trials: int,
    seed: int,
) -> dict[str, Any]:
    """k-way choice of the true answer among those of other pictures, and the losses with the right and a wrong image.

    `match` compares log-likelihoods per token; `match_less_prior` first takes away the `prior` of the answer over
    `others`, pictures of the training. Intervals are 95 %, over images.
    """
    rng, count = random.Random(seed), len(shown.answers)
    before = prior(score, composed(projector, others, score.table), shown.answers, question)
    wins, calm = torch.zeros(trials, count), torch.zeros(trials, count)
    right, wrong = torch.zeros(count), torch.zeros(count)
    for trial in range(trials):
        table = rivals(shown.answers, shown.answers, ways, rng)
        for rows in torch.arange(count).split(16):
            part, answers = shown.pick(rows.tolist()), [table[r] for r in rows]
            image = composed(projector, part, score.table)
            sums, lengths = score(image, question, answers)
            means = sums / lengths
            wins[trial, rows] = means.argmax(1).eq(0).float()
            less = means - torch.tensor([[before[a] for a in row] for row in answers])
            calm[trial, rows] = less.argmax(1).eq(0).float()
            if trial == 0:
                right[rows] = -means[:, 0]
                moved, _ = score(image.roll(1, 0), question, [row[:1] for row in answers])
                wrong[rows] = -moved[:, 0] / lengths[:, 0]
        print(f"  trial {trial}: match {wins[trial].mean():.3f}, less prior {calm[trial].mean():.3f}", flush=True)
    interval, calm_interval = (1.96 * float(found.mean(0).std()) / count**0.5 for found in (wins, calm))
    return {
        "images": count,
        "ways": ways,
        "trials": trials,
        "match": round(float(wins.mean()), 3),
        "match_ci95": round(interval, 3),
        "match_less_prior": round(float(calm.mean()), 3),
        "match_less_prior_ci95": round(calm_interval, 3),
        "loss_right_image": round(float(right.mean()), 3),
        "loss_wrong_image": round(float(wrong.mean()), 3),
    }
