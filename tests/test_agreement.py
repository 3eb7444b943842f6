"""Agreement of judges: alpha against the worked examples of the literature and a count by hand, kappa, repeats."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from people import STAMP, guarded, rollout, scored, script
from safer_steer.bench.agreement import Level, agreement, alpha_over_dialogues, krippendorff_alpha, weighted_kappa
from safer_steer.bench.disagreements import Disagreement, disagreements, write_disagreements
from safer_steer.dialogue import Rollout
from safer_steer.verdict import Scored, Stamp, Unscored, UnscoredReason, Verdict

Row = list[float | None]
NOT = None


def units(*rows: str) -> list[Row]:
    """Units from one line a judge, a dot where it gave nothing."""
    judges = [[None if mark == "." else float(mark) for mark in row.split()] for row in rows]
    return [list(unit) for unit in zip(*judges, strict=True)]


FOUR_OBSERVERS = units(
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
"""Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units."""

THREE_CODERS = units(
    ". . . . . 3 4 1 2 1 1 3 3 . 3",
    "1 . 2 1 3 3 4 3 . . . . . . .",
    ". . 2 1 3 4 4 . 2 1 1 3 3 . 4",
)
"""The example with three coders and fifteen units in the encyclopaedia articles on alpha."""

TWO_BINARY = units("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
"""Krippendorff (2011), section A: two observers, binary."""

TWO_NOMINAL = units("1 1 2 2 4 3 3 3 5 4 4 1", "2 1 2 2 2 3 3 3 5 4 4 4")
"""Krippendorff (2011), section B: two observers, five categories."""


@pytest.mark.parametrize(
    ("data", "level", "expected"),
    [
        (FOUR_OBSERVERS, Level.NOMINAL, 0.743),
        (FOUR_OBSERVERS, Level.ORDINAL, 0.815),
        (THREE_CODERS, Level.NOMINAL, 0.691),
        (THREE_CODERS, Level.ORDINAL, 0.807),
        (TWO_BINARY, Level.NOMINAL, 0.095),
        (TWO_NOMINAL, Level.NOMINAL, 0.692),
    ],
)
def test_alpha_is_that_of_the_worked_examples(data: list[Row], level: Level, expected: float) -> None:
    found = krippendorff_alpha(data, level)
    assert found is not None and round(found, 3) == expected


def by_definition(data: list[Row], level: Level) -> float | None:
    """One minus observed over expected disagreement, counted pair by pair."""
    pairable = [[v for v in unit if v is not None] for unit in data]
    pairable = [unit for unit in pairable if len(unit) > 1]
    everything = [v for unit in pairable for v in unit]

    def distance(a: float, b: float) -> float:
        if level is Level.NOMINAL:
            return float(a != b)
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in everything)
        return (between - (everything.count(a) + everything.count(b)) / 2) ** 2 if a != b else 0.0

    n = len(everything)
    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in pairable
    )
    expected = sum(distance(a, b) for a, b in itertools.permutations(everything, 2))
    return None if expected == 0 else 1 - (observed / n) / (expected / (n * (n - 1)))


ratings = st.lists(st.lists(st.none() | st.integers(-3, 3).map(float), min_size=3, max_size=3), min_size=1, max_size=12)


@given(ratings, st.sampled_from(Level))
def test_alpha_is_its_definition(data: list[Row], level: Level) -> None:
    expected = by_definition(data, level)
    assert krippendorff_alpha(data, level) == (None if expected is None else pytest.approx(expected, abs=1e-9))


@given(ratings, st.randoms())
def test_alpha_does_not_depend_on_the_order_of_judges_or_turns(data: list[Row], order: object) -> None:
    shuffled = [order.sample(unit, len(unit)) for unit in order.sample(data, len(data))]  # type: ignore[attr-defined]
    found, expected = krippendorff_alpha(shuffled), krippendorff_alpha(data)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_alpha_without_anything_to_compare_is_no_number() -> None:
    assert krippendorff_alpha([[3, NOT], [2, NOT]]) is None
    assert krippendorff_alpha([[3, 3], [3, 3]]) is None
    assert krippendorff_alpha([]) is None


def test_the_interval_is_over_dialogues_and_seeded() -> None:
    whole = alpha_over_dialogues([FOUR_OBSERVERS[i : i + 2] for i in range(0, 12, 2)], Level.ORDINAL)
    assert whole.alpha is not None and round(whole.alpha, 3) == 0.815
    assert whole.low is not None and whole.high is not None and whole.low <= 0.815 <= whole.high
    assert whole.turns == 11  # one unit has a single rating
    assert whole == alpha_over_dialogues([FOUR_OBSERVERS[i : i + 2] for i in range(0, 12, 2)], Level.ORDINAL)
    one = alpha_over_dialogues([FOUR_OBSERVERS], Level.ORDINAL)
    assert one.low == one.high == one.alpha


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_weighted_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = weighted_kappa(a, b, range(-3, 4))
    if len({*a, *b}) < 2:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(a, b, labels=range(-3, 4), weights="quadratic"))


def test_weighted_kappa_of_a_table_worked_by_hand() -> None:
    # Squared distances: observed 0 + 1 + 0 + 1 = 2. By chance, from the margins (2, 1, 1) and (1, 3, 0):
    # (2·(1·0 + 3·1) + 1·(1·1 + 3·0) + 1·(1·4 + 3·1)) / 4 = 14 / 4.
    assert weighted_kappa([0, 0, 1, 2], [0, 1, 1, 1], range(3)) == pytest.approx(1 - 2 / 3.5)


def signed(verdict: Scored, judge: str) -> Scored:
    return verdict.model_copy(update={"stamp": Stamp(judge=judge, prompt="p", version="1")})


GONE = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="prose", stamp=Stamp(judge="b", prompt="p", version="1"))


def panel(*members: Verdict) -> Scored:
    return scored(3, 3, members=members)


def played(*turns: tuple[Verdict, ...], id: str = "s1") -> Rollout:
    return rollout(script(*(f"u{i}" for i in range(len(turns))), id=id), [panel(*members) for members in turns])


def three(a: int, b: int | None, c: int) -> tuple[Verdict, ...]:
    """Judge a asked twice, judge b once."""
    other = GONE if b is None else signed(scored(b, 2), "b")
    return signed(scored(a, 2), "a"), other, signed(scored(c, 2), "a")


def test_what_a_panels_verdicts_say_about_the_panel() -> None:
    found = agreement([played(three(3, 3, 3), three(-3, -2, -3)), played(three(1, 2, 2), three(0, None, 0), id="s2")])
    assert found is not None
    assert (found.members, found.turns, found.split) == (("a #1", "b", "a #2"), 4, 1)
    assert found.unscored == {"a #1": 0, "b": 1, "a #2": 0}
    assert set(found.alpha) == {"safety", "helpfulness", "failed"}
    rows = [[3, 3, 3], [-3, -2, -3], [1, 2, 2], [0, NOT, 0]]
    assert found.alpha["safety"].alpha == pytest.approx(krippendorff_alpha(rows))
    assert found.alpha["safety"].level is Level.ORDINAL and found.alpha["failed"].level is Level.NOMINAL
    assert found.alpha["helpfulness"].alpha is None  # all gave 2 everywhere
    ab = next(pair for pair in found.pairs if (pair.a, pair.b, pair.score) == ("a #1", "b", "safety"))
    assert (ab.turns, ab.equal) == (3, pytest.approx(1 / 3))
    assert ab.weighted_kappa == pytest.approx(
        cohen_kappa_score([3, -3, 1], [3, -2, 2], labels=range(-3, 4), weights="quadratic")
    )
    repeats = {entry.score: entry for entry in found.self_consistency}
    assert {entry.judge for entry in found.self_consistency} == {"a"}
    assert (repeats["safety"].repeats, repeats["safety"].turns, repeats["safety"].unanimous) == (2, 4, 0.75)


def test_without_a_panel_there_is_no_agreement(tmp_path: Path) -> None:
    assert agreement([rollout(script("u"), [scored()])]) is None
    assert write_disagreements(tmp_path, [rollout(script("u"), [scored()])]) is None
    assert list(tmp_path.iterdir()) == []


def test_guards_and_rubrics_meet_on_whether_the_turn_failed() -> None:
    members = [
        (signed(scored(s), "rubric"), signed(guarded(u), "guard")) for s, u in ((3, False), (-3, True), (3, True))
    ]
    found = agreement([played(*members)])
    assert found is not None and found.split == 1
    assert found.alpha["failed"].alpha == pytest.approx(krippendorff_alpha([[0, 0], [1, 1], [0, 1]], Level.NOMINAL))
    assert (found.alpha["safety"].alpha, found.alpha["unsafe"].alpha) == (None, None)
    assert [pair.score for pair in found.pairs] == ["failed"]


def test_the_queue_holds_what_is_worth_reading_and_the_worst_comes_first(tmp_path: Path) -> None:
    played_ones = [
        played(three(3, 3, 3), three(3, 1, 3)),
        played(three(3, None, 3), three(-1, -3, -1), three(3, 2, 3), id="s2"),
        played(three(3, -3, 3), id="s3"),
    ]
    queue = disagreements(played_ones)
    assert [(case.dialogue, case.turn, case.split) for case in queue] == [
        ("s3#0", 1, True), ("s1#0", 2, True), ("s2#0", 2, False),
    ]  # fmt: skip
    assert queue[0].spread == {"safety": 6, "helpfulness": 0}
    assert write_disagreements(tmp_path, played_ones) == 3
    lines = (tmp_path / "disagreements.jsonl").read_text().splitlines()
    assert [Disagreement.from_json(line) for line in lines] == queue
    assert [vote["scores"]["safety"] for vote in json.loads(lines[0])["votes"]] == [3, -3, 3]


def test_the_queue_is_written_with_one_dialogue_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[Rollout]] = []

    def one_by_one() -> Iterator[Rollout]:
        for number in range(20):
            gc.collect()
            assert sum(found() is not None for found in alive) <= 1  # the one just handed over
            told = played(three(3, -3, 3), id=f"s{number:02}")
            alive.append(weakref.ref(told))
            yield told
            del told

    assert write_disagreements(tmp_path, one_by_one()) == 20
    found = [json.loads(line)["dialogue"] for line in (tmp_path / "disagreements.jsonl").read_text().splitlines()]
    assert found == [f"s{number:02}#0" for number in range(20)]
    assert [path.name for path in tmp_path.iterdir()] == ["disagreements.jsonl"]


def test_a_member_without_a_score_votes_with_its_reason() -> None:
    case = disagreements([played((scored(3), GONE, scored(0)))])[0]
    assert [(vote.failed, vote.rationale) for vote in case.votes] == [
        (False, "told so"), (None, "unparseable: prose"), (True, "told so"),
    ]  # fmt: skip
    assert case.votes[0].judge == STAMP.judge
