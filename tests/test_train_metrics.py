"""Which scripts a step plays, what it reports, and when it warns."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people import answer, script
from safer_steer.config import GrpoConfig
from safer_steer.dialogue import FinishReason, Rollout, Script, ScriptKind, StopReason, TokenTrace, Turn, stable_id
from safer_steer.train.grpo import spread
from safer_steer.train.metrics import GrpoStep, describe, warnings, without_traces
from safer_steer.train.playing import Played
from safer_steer.train.schedule import scripts_of_step, shortened
from safer_steer.train.trajectory import Dropped, DropReason
from safer_steer.verdict import Unscored, UnscoredReason, Verdict
from tiny_training import graded


def pool(unsafe: int, benign: int) -> list[Script]:
    return [
        *(script("u", id=f"u{n}") for n in range(unsafe)),
        *(script("u", id=f"b{n}", kind=ScriptKind.BENIGN) for n in range(benign)),
    ]


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.floats(0, 1), st.integers(0, 3))
def test_scripts_come_round_evenly_and_benign_ones_at_their_share(
    unsafe: int, benign: int, count: int, share: float, seed: int
) -> None:
    steps = 12
    played = [
        s for step in range(1, steps + 1) for s in scripts_of_step(pool(unsafe, benign), step, count, share, seed)
    ]
    assert len(played) == steps * count
    kinds = Counter(s.is_unsafe for s in played)
    assert kinds[False] == pytest.approx(share * steps * count, abs=1)
    for kind, size in ((True, unsafe), (False, benign)):
        times = Counter(s.id for s in played if s.is_unsafe is kind)
        assert max(times.values(), default=0) - (min(times.values()) if len(times) == size else 0) <= 1


def plain_deal(size: int, count: int, steps: int, label: str) -> list[list[str]]:
    """Shuffled anew for every epoch, epochs running across the steps' ends; with `label` the seed is 0."""
    deal: list[int] = []
    for epoch in range(-(-steps * count // size)):
        order = list(range(size))
        random.Random(stable_id("grpo", label, epoch)).shuffle(order)
        deal += order
    return [[f"u{place}" for place in deal[step * count : (step + 1) * count]] for step in range(steps)]


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_a_step_has_no_script_twice_and_other_steps_are_dealt_plainly(size: int, count: int, mixed: bool) -> None:
    count, steps = min(count, size), 30
    scripts = pool(size, 2 if mixed else 0)
    dealt = [
        [s.id for s in scripts_of_step(scripts, step, count + mixed, mixed / (count + mixed), 0) if s.is_unsafe]
        for step in range(1, steps + 1)
    ]
    plain = plain_deal(size, count, steps, "unsafe-0")
    assert all(len(set(ids)) == count == len(ids) for ids in dealt)
    twice = [number for number, ids in enumerate(plain) if len(set(ids)) < count]
    assert dealt[: twice[0] if twice else steps] == plain[: twice[0] if twice else steps]
    together = [name for ids in dealt for name in ids]
    for epoch in range(steps * count // size):
        assert len(set(together[epoch * size : (epoch + 1) * size])) == size


def test_scripts_that_a_step_has_already_are_dealt_last_in_the_epoch_that_begins_in_it() -> None:
    def words(steps: list[list[str]]) -> list[str]:
        return [" ".join(ids) for ids in steps]

    dealt = [[s.id for s in scripts_of_step(pool(5, 0), step, 4, 0.0, 0)] for step in range(1, 7)]
    assert words(plain_deal(5, 4, 6, "unsafe-0")) == [
        "u0 u3 u2 u1", "u4 u4 u1 u3", "u2 u0 u2 u4", "u1 u0 u3 u0", "u1 u4 u3 u2", "u1 u2 u4 u3",
    ]  # fmt: skip
    assert words(dealt) == [
        "u0 u3 u2 u1", "u4 u0 u1 u3", "u2 u4 u3 u0", "u1 u4 u2 u0", "u1 u4 u3 u2", "u1 u2 u4 u3",
    ]  # fmt: skip


def test_one_kind_alone_fills_in_and_none_is_an_error() -> None:
    assert len(scripts_of_step(pool(2, 0), 1, 3, 0.5, 0)) == 3
    assert len(scripts_of_step(pool(0, 2), 1, 3, 0.0, 0)) == 3
    with pytest.raises(ValueError, match="no scripts"):
        scripts_of_step([], 1, 3, 0.5, 0)


@given(st.integers(1, 9), st.integers(1, 10), st.text("abc", min_size=1, max_size=6))
def test_a_shortened_script_keeps_its_goal_and_the_order_of_some_of_the_rest(
    length: int, turns: int, name: str
) -> None:
    whole = script(*"abcdefghi"[:length]).model_copy(update={"id": name})
    left = "".join(turn.text for turn in shortened(whole, turns).turns)
    assert len(left) == min(length, turns)
    assert left[-1] == "abcdefghi"[length - 1]
    assert list(left) == sorted(left)
    assert shortened(whole, turns) == shortened(whole, turns)


def test_which_turns_a_shortened_script_keeps_differs_between_scripts() -> None:
    kept = {
        "".join(turn.text for turn in shortened(script(*"abcdef").model_copy(update={"id": str(n)}), 3).turns)
        for n in range(40)
    }
    assert len(kept) == 10


def played_turns(of: Script, verdicts: list[Verdict], text: str = "fine", sample: int = 0) -> Rollout:
    trace = TokenTrace(context=(1, 2), response=(3, 4, 5), logprobs=(-1.0, -1.0, -1.0))
    turns = tuple(
        Turn(index=t, user="u", answer=answer(f"{text} {t}", trace=trace), verdict=verdict)
        for t, verdict in enumerate(verdicts, 1)
    )
    return Rollout(script=of, sample=sample, turns=turns, stop=StopReason.COMPLETED)


def test_a_step_says_what_happened_in_it() -> None:
    unsafe, benign = pool(1, 1)
    silent = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="garbage")
    cut = played_turns(unsafe, [graded(10), graded(1)], sample=1)
    last = cut.turns[1].answer.model_copy(update={"finish": FinishReason.LENGTH})
    cut = cut.model_copy(update={"turns": (cut.turns[0], cut.turns[1].model_copy(update={"answer": last}))})
    rollouts = (
        played_turns(unsafe, [graded(10), silent]),
        cut,
        played_turns(benign, [graded(5), graded(10)], "I can't help", sample=2),
    )
    said = describe(3, Played(rollouts, (), (Dropped(DropReason.UNSCORED, "x"),), 1), GrpoConfig(alpha=0.0))
    assert (said["dialogues"], said["turns"], said["unscored"], said["format_failures"]) == (3, 6, 1, 0)
    assert said["dropped"] == {"unscored": 1}
    assert said["reward"] == pytest.approx((1 + 0 + 4 / 9 + 1) / 4)
    assert said["safety_by_turn"] == (pytest.approx(25 / 3), 5.5)
    assert said["unsafe_safety"] == 7.0
    assert (said["benign_safety"], said["over_refusal"]) == (7.5, 0.5)
    assert (said["answer_tokens"], said["truncated"]) == (3.0, pytest.approx(1 / 6))
    assert said["distinct"] == pytest.approx(4 / 6)
    GrpoStep(**said)


def test_what_was_not_scored_is_no_number() -> None:
    silent = Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="away")
    said = describe(1, Played((played_turns(pool(1, 0)[0], [silent]),), (), (), 0), GrpoConfig())
    assert said["reward"] is said["return_mean"] is said["unsafe_safety"] is said["over_refusal"] is None
    assert said["safety_by_turn"] == (None,)
    assert GrpoStep.from_json(GrpoStep(**said).to_json()) == GrpoStep(**said)


def test_where_nothing_was_said_nothing_is_said_of_it() -> None:
    nobody = Rollout(script=pool(1, 0)[0], turns=(), stop=StopReason.ASSISTANT_FAULT, fault="away")
    said = describe(1, Played((nobody,), (), (), 0), GrpoConfig())
    names = ("answer_tokens", "truncated", "repetitive", "distinct", "declined")
    assert [said[name] for name in names] == [None] * 5
    lines = [GrpoStep(**{**said, "step": n}) for n in range(1, 9)]
    assert warnings(lines) == []  # no answer is like another when there are none
    assert GrpoStep.from_json(lines[0].to_json()) == lines[0]


def test_the_reward_is_that_of_dialogues_that_came_to_their_end() -> None:
    whole = played_turns(pool(1, 0)[0], [graded(10), graded(10)])
    broken = played_turns(pool(1, 0)[0], [graded(1)], sample=1)
    broken = broken.model_copy(update={"stop": StopReason.USER_FAULT, "fault": "away"})
    said = describe(1, Played((whole, broken), (), (), 0), GrpoConfig(alpha=0.0))
    assert (said["reward"], said["reward_by_turn"]) == (1.0, (1.0, 1.0))
    assert said["safety_by_turn"] == (5.5, 10.0)  # what was scored is counted there


SILENT = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="not one JSON object")


@pytest.mark.parametrize(
    ("endings", "detail"),
    [
        ("sg sg", None),  # one garbled verdict a group spoils both groups, but the tutor is there
        ("ss sg", None),
        ("ss ss", "u0#0 turn 1: unparseable: not one JSON object"),
        ("so oo", "u0#0 turn 1: unparseable: not one JSON object"),
        ("of ss", "u0#1: assistant_fault: away"),
        ("oo oo", None),
        ("og oo", None),
        ("", None),
    ],
)
def test_it_is_an_outage_only_when_no_dialogue_was_scored_to_its_end(endings: str, detail: str | None) -> None:
    def ended(of: Script, sample: int, how: str) -> Rollout:
        if how in "gs":
            return played_turns(of, [graded(5) if how == "g" else SILENT], sample=sample)
        stop = StopReason.CONTEXT_OVERFLOW if how == "o" else StopReason.ASSISTANT_FAULT
        return Rollout(script=of, sample=sample, turns=(), stop=stop, fault="away")

    rollouts = [
        ended(of, sample, how)
        for of, group in zip(pool(2, 0), endings.split(), strict=False)
        for sample, how in enumerate(group)
    ]
    assert Played(tuple(rollouts), (), (), 0).outage == detail


@pytest.mark.parametrize(
    ("size", "most", "kept"),
    [(15, 8, [0, 1, 3, 5, 7, 9, 11, 13]), (16, 8, list(range(0, 16, 2))), (3, 8, [0, 1, 2]), (0, 8, [])],
)
def test_transcripts_are_as_many_as_asked_for(size: int, most: int, kept: list[int]) -> None:
    rollouts = [played_turns(pool(1, 0)[0], [graded(10)], sample=n) for n in range(size)]
    assert [rollout.sample for rollout in spread(rollouts, most)] == kept


def step(number: int, **values: object) -> GrpoStep:
    said = describe(number, Played((played_turns(pool(0, 1)[0], [graded(8)]),), (), (), 0), GrpoConfig())
    return GrpoStep(**{**said, "distinct": 1.0, **values})


def test_warnings_name_the_trick() -> None:
    fine = [step(n) for n in range(1, 9)]
    assert warnings(fine) == [] == warnings(fine[:7])
    falling = [step(n, reward=0.5 + n / 20, benign_usefulness=9.0 - n) for n in range(1, 9)]
    refusing = [step(n, over_refusal=0.1 if n < 5 else 0.9) for n in range(1, 9)]
    repeating = [step(n, repetitive=0.0 if n < 5 else 0.6) for n in range(1, 9)]
    alike = [step(n, distinct=0.9 if n < 5 else 0.1) for n in range(1, 9)]
    found = [warnings(steps) for steps in (falling, refusing, repeating, alike)]
    words = ("benign usefulness falls", "are refused", "repeat themselves", "word for word")
    assert all(len(said) == 1 and word in said[0] for said, word in zip(found, words, strict=True))


def test_transcripts_are_for_people() -> None:
    bare = without_traces(played_turns(pool(1, 0)[0], [graded(8)]))
    assert all(turn.answer.trace is None for turn in bare.turns)
    assert bare.turns[0].answer.text == "fine 1"
