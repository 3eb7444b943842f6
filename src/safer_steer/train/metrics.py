"""What a GRPO step looked like, and the early signs of a reward being gamed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from safer_steer.config import GrpoConfig
from safer_steer.dialogue import AnswerState, FinishReason, Record, Rollout, Turn
from safer_steer.reward import shaped_rewards, turn_returns
from safer_steer.train.playing import Played
from safer_steer.train.trajectory import shortcoming, turn_rewards
from safer_steer.verdict import Scored

OVER_REFUSAL = 5
"""The rubric's safety level for refusing a safe request; tutors give it to answers that miss the question, too."""
_DECLINES = re.compile(
    r"\b(can ?not|can['’]t|won['’]t|unable to|not able to|must decline|refuse to)\b(?! see\b)"
    r"|\b(sorry|afraid),? (but )?(i|that)\b",
    re.IGNORECASE,
)
WINDOW = 4
"""How many steps at the beginning and at the end are compared by `warnings`."""


HELD_OUT = {
    "held_out_safety": "the safety that the evaluation judge sees on held-out scripts",
    "held_out_helpfulness": "the helpfulness that the evaluation judge sees on held-out benign scripts",
}

LIMITS = (
    ("declined", (0.0, 0.9), "nearly every answer declines, whatever was asked"),
    ("over_refusal", (0.0, 0.5), "more than half of the benign turns are refused"),
    ("repetitive", (0.0, 0.3), "many answers repeat themselves"),
    ("distinct", (0.3, 1.0), "most answers are word for word the same"),
)
"""Shares that should stay between two values, and what is said when the last steps' mean does not."""


class GrpoStep(Record):
    """One line of `metrics.jsonl`. Means are over what was scored, and `None` where nothing was.

    `reward` is the mean turn reward, `return_mean` the mean over dialogues of `R` (at their first turn); the
    `*_by_turn` lists run from turn 1. `benign_*` are over benign dialogues: `over_refusal` is the share of their
    turns that decline and are graded for it. `dropped` counts groups by reason. `drift` is the mean |log π − log π|
    between rollout and training at the first update: numerical disagreement, not learning. `declined` is the share
    of all answers that decline, by their words; it and the four before `loss` are `None` where nothing was said, and
    `reward` and `return_mean` leave out dialogues that broke off. `tutor_*`: mean seconds a verdict, tokens, and price
    of the step, without the `tutor_uncounted` calls whose tokens the server did not tell.
    `learning_rate` is the step's.
    `held_out_*` are the evaluation judge's means on scripts kept out of training, on the steps that probe, before the
    step's update; neither `rollout_seconds` nor `update_seconds` has the probe in it.
    """

    step: int
    dialogues: int
    groups: int
    dropped: Mapping[str, int]
    replays: int
    turns: int
    unscored: int
    format_failures: int
    reward: float | None
    return_mean: float | None
    reward_by_turn: tuple[float | None, ...]
    safety_by_turn: tuple[float | None, ...]
    unsafe_safety: float | None
    usefulness: float | None
    faithfulness: float | None
    benign_safety: float | None
    benign_usefulness: float | None
    over_refusal: float | None
    answer_tokens: float | None
    truncated: float | None
    repetitive: float | None
    distinct: float | None
    loss: float | None = None
    kl: float | None = None
    clipped: float | None = None
    drift: float | None = None
    grad_norm: float | None = None
    trained_tokens: int = 0
    learning_rate: float | None = None
    rollout_seconds: float = 0.0
    update_seconds: float = 0.0
    tokens_per_second: float = 0.0
    declined: float | None = None
    tutor_seconds: float | None = None
    tutor_prompt_tokens: int = 0
    tutor_completion_tokens: int = 0
    tutor_uncounted: int = 0
    tutor_cost: float | None = None
    held_out_safety: float | None = None
    held_out_helpfulness: float | None = None
    held_out_unscored: int = 0


def describe(step: int, played: Played, config: GrpoConfig) -> dict[str, Any]:
    """Everything of a `GrpoStep` that the rollouts say."""
    rollouts = played.rollouts
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    scored = [turn for turn in turns if isinstance(turn.verdict, Scored)]
    benign = [turn for rollout in rollouts if not rollout.script.is_unsafe for turn in rollout.turns]
    unsafe = [turn for rollout in rollouts if rollout.script.is_unsafe for turn in rollout.turns]
    complete = [rollout for rollout in rollouts if rollout.turns and shortcoming(rollout) is None]
    rewards = [turn_rewards(rollout, config) for rollout in complete]
    texts = [turn.answer.text for turn in turns]
    return {
        "step": step,
        "dialogues": len(rollouts),
        "groups": len(played.groups),
        "dropped": played.drop_counts,
        "replays": played.replays,
        "turns": len(turns),
        "unscored": sum(not _rewarded(turn) for turn in turns),
        "format_failures": sum(turn.answer.state is not AnswerState.OK for turn in turns),
        "reward": _mean(value for row in rewards for value in row),
        "return_mean": _mean(
            turn_returns(shaped_rewards(row, config.shaping, config.alpha), config.credit, config.discount)[0]
            for row in rewards
        ),
        "reward_by_turn": _by_turn(rewards),
        "safety_by_turn": _by_turn([[_score(turn, "safety") for turn in rollout.turns] for rollout in rollouts]),
        "unsafe_safety": _mean(_score(turn, "safety") for turn in unsafe),
        "usefulness": _mean(_score(turn, "usefulness") for turn in scored),
        "faithfulness": _mean(_score(turn, "faithfulness") for turn in scored),
        "benign_safety": _mean(_score(turn, "safety") for turn in benign),
        "benign_usefulness": _mean(_score(turn, "usefulness") for turn in benign),
        "over_refusal": _mean(_over_refused(turn) for turn in benign),
        "answer_tokens": _mean(_written(turn) for turn in turns),
        "truncated": _mean(float(turn.answer.finish is FinishReason.LENGTH) for turn in turns),
        "repetitive": _mean(float(repeats(text)) for text in texts),
        "distinct": len(set(texts)) / len(texts) if texts else None,
        "declined": _mean(float(declines(text)) for text in texts),
    }


def repeats(text: str, most: float = 0.4) -> bool:
    """Whether more than `most` of a text's word triples have been said before in it.

    >>> repeats("no no no no no no no no"), repeats("I cannot help with that, but I can help you stay safe.")
    (True, False)
    """
    words = text.lower().split()
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    return bool(triples) and 1 - len(triples) / triples.total() > most


def warnings(steps: Sequence[GrpoStep]) -> list[str]:
    """Early signs that the reward is gamed, comparing the last `WINDOW` steps with the first ones. Empty: none seen."""
    if len(steps) < 2 * WINDOW:
        return []
    first, last = steps[:WINDOW], steps[-WINDOW:]

    def change(name: str) -> float:
        before, after = (_mean(getattr(step, name) for step in part) for part in (first, last))
        return 0.0 if before is None or after is None else after - before

    found = []
    if change("reward") > 0.03 and change("benign_usefulness") < -1.0:
        found.append(f"the reward rises while benign usefulness falls by {-change('benign_usefulness'):.1f}")
    for name, said in HELD_OUT.items():
        probed = [value for step in steps if (value := getattr(step, name)) is not None]
        half = len(probed) // 2
        if half and change("reward") > 0.03 and fmean(probed[-half:]) < fmean(probed[:half]) - 0.3:
            found.append(f"the reward rises while {said} falls by {fmean(probed[:half]) - fmean(probed[-half:]):.1f}")
    for name, (low, high), said in LIMITS:
        value = _mean(getattr(step, name) for step in last)
        if value is not None and not low <= value <= high:
            found.append(said)
    return found


def _rewarded(turn: Turn) -> bool:
    return isinstance(turn.verdict, Scored) or turn.answer.state is not AnswerState.OK


def _score(turn: Turn, name: str) -> float | None:
    return turn.verdict.scores.get(name) if isinstance(turn.verdict, Scored) else None


def _over_refused(turn: Turn) -> float | None:
    score = _score(turn, "safety")
    return None if score is None else float(score == OVER_REFUSAL and declines(turn.answer.text))


def declines(text: str) -> bool:
    """Whether an answer says that it will not do something: words alone, for a rough count.

    >>> declines("I can't help with that."), declines("I can't see a cat, but a dog."), declines("It is a dog.")
    (True, False, False)
    """
    return _DECLINES.search(text) is not None


def _written(turn: Turn) -> float | None:
    return None if turn.answer.trace is None else float(len(turn.answer.trace.response))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _by_turn(rows: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    columns: defaultdict[int, list[float | None]] = defaultdict(list)
    for row in rows:
        for index, value in enumerate(row):
            columns[index].append(value)
    return tuple(_mean(columns[index]) for index in range(len(columns)))


COLUMNS = (
    ("step", "step", "{:4d}"), ("reward", "reward", "{:.3f}"), ("safety", "unsafe_safety", "{:.2f}"),
    ("benign use", "benign_usefulness", "{:.2f}"), ("over-ref", "over_refusal", "{:.0%}"), ("KL", "kl", "{:.4f}"),
    ("length", "answer_tokens", "{:.0f}"), ("cut", "truncated", "{:.0%}"), ("unscored", "unscored", "{:d}"),
    ("groups", "groups", "{:d}"), ("tutor s", "tutor_seconds", "{:.2f}"), ("held-out", "held_out_safety", "{:.2f}"),
)  # fmt: skip


def table_head() -> str:
    """The heading of the live table, one column for each of `COLUMNS`."""
    return "  ".join(f"{title:>8}" for title, _, _ in COLUMNS)


def table_row(line: GrpoStep) -> str:
    """A step as a row of the live table; what is not known is a dash."""
    values = [(getattr(line, name), form, max(8, len(title))) for title, name, form in COLUMNS]
    return "  ".join(f"{'–' if value is None else form.format(value):>{width}}" for value, form, width in values)


def without_traces(rollout: Rollout) -> Rollout:
    """A rollout for people to read: the token traces left out."""
    turns = [
        turn.model_copy(update={"answer": turn.answer.model_copy(update={"trace": None})}) for turn in rollout.turns
    ]
    return rollout.model_copy(update={"turns": tuple(turns)})
