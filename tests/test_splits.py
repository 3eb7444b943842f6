"""What a split is to look like: asked-for lengths, mixture, and risk that needs the history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import divided, recipe
from people import script
from safer_steer.config import SplitConfig, TurnRange, recipe_from
from safer_steer.construct.lengths import drawn, mean_of, quotas, tilted
from safer_steer.construct.splits import card_of, history_risk, needs_history, select
from safer_steer.dialogue import Script, ScriptKind, Split, UserTurn
from safer_steer.errors import ConfigError

lengths = st.dictionaries(st.integers(2, 10), st.integers(1, 60), min_size=1)


@given(lengths, st.floats(0, 1))
def test_tilting_reaches_every_mean_between_the_ends(weights: dict[int, int], share: float) -> None:
    mean = min(weights) + share * (max(weights) - min(weights))
    shares = tilted(weights, mean)
    assert sum(shares.values()) == pytest.approx(1) and mean_of(shares) == pytest.approx(mean, abs=1e-6)


def test_the_least_surprising_distribution_is_uniform_where_its_mean_is_asked_for() -> None:
    assert tilted(dict.fromkeys(range(4, 9), 1.0), 6.0) == pytest.approx(dict.fromkeys(range(4, 9), 0.2))


def test_turns_are_drawn_with_the_mean_that_is_asked_for() -> None:
    wanted = TurnRange(low=2, high=10, mean=8.33)
    turns = [drawn(wanted, seed) for seed in range(4000)]
    assert set(turns) == set(range(2, 11)) and abs(sum(turns) / len(turns) - 8.33) < 0.1
    assert drawn(wanted, 7) == drawn(wanted, 7)
    with pytest.raises(ConfigError, match="mean=9 is not between low=2 and high=8"):
        recipe_from({"construction": {"red_team_turns": {"low": 2, "high": 8, "mean": 9}}})


@given(lengths, st.integers(1, 300), st.integers(2, 10), st.integers(2, 10), st.floats(0, 1))
def test_quotas_never_exceed_what_there_is_and_keep_the_mean(
    available: dict[int, int], count: int, a: int, b: int, share: float
) -> None:
    low, high = sorted((a, b))
    mean = low + share * (high - low)
    taken = quotas(available, count, TurnRange(low=low, high=high, mean=mean))
    inside = {n for n in available if low <= n <= high}
    assert set(taken) <= inside and all(0 < number <= available[n] for n, number in taken.items())
    assert sum(taken.values()) <= count
    if taken:
        number = sum(taken.values())
        assert abs(mean_of(taken) - mean) <= (10 - 2) / number + 1e-9, (
            "off by no more than the rounding of one dialogue"
        )
    whole = quotas(available, count, TurnRange(low=low, high=high))
    assert sum(whole.values()) == min(count, sum(available[n] for n in inside))


def test_a_mean_is_kept_rather_than_a_size() -> None:
    taken = quotas({2: 100, 10: 10}, 100, TurnRange(low=2, high=10, mean=6.0))
    assert taken == {2: 10, 10: 10}


def with_risks(*risks: int | None, kind: ScriptKind = ScriptKind.RED_TEAM) -> Script:
    turns = tuple(UserTurn(text=f"u{n}", risk=risk) for n, risk in enumerate(risks))
    return script("u", kind=kind).model_copy(update={"turns": turns})


@pytest.mark.parametrize(
    ("risks", "expected"),
    [((1, 2, 3, 4, 5), 1.0), ((5, 5, 5), 0.0), ((1, 5, 1), 0.5), ((3, 4, 5), 0.5), ((4,), 0.0), ((1, None), None)],
)
def test_history_risk_by_hand(risks: tuple[int | None, ...], expected: float | None) -> None:
    assert history_risk(with_risks(*risks)) == expected


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_history_risk_lies_between_none_and_all(risks: list[int]) -> None:
    grown = history_risk(with_risks(*risks))
    assert grown is not None and 0 <= grown <= 1
    assert (grown == 0) == (risks[0] == max(risks))


def test_what_shows_its_risk_at_once_is_not_for_rl_and_benign_ones_stay() -> None:
    assert not needs_history(card_of(with_risks(5, 5)), 0.1) and needs_history(card_of(with_risks(1, 5)), 1.0)
    assert not needs_history(card_of(with_risks(1, None)), 0.1) and needs_history(card_of(with_risks(None)), 0.0)
    assert needs_history(card_of(with_risks(5, 5, kind=ScriptKind.BENIGN)), 1.0)


def pool(count: int = 400) -> list[Script]:
    made = []
    for number in range(count):
        words = (f"{number} {turn} {number * 7 + turn}" for turn in range(2 + number % 9))
        kind = list(ScriptKind)[number // 9 % 3]
        one = script(*words, id=f"s{number:03}", kind=kind).model_copy(
            update={"category": "abcd"[number % 4], "seed_id": f"seed-{number}", "split": Split.TRAIN}
        )
        last = len(one.turns) - 1
        risks = [5 if n == last or number % 5 == 0 else 1 for n in range(last + 1)]
        risky = tuple(turn.model_copy(update={"risk": risk}) for turn, risk in zip(one.turns, risks, strict=True))
        made.append(one.model_copy(update={"turns": risky}))
    return made


def test_a_selection_has_the_size_the_mean_and_the_mixture() -> None:
    wanted = SplitConfig(size=120, turns=TurnRange(low=3, high=10, mean=8.0))
    cards = [card_of(one) for one in pool()]
    chosen = select(cards, wanted, 0)
    counts = [one.length for one in chosen]
    assert len(chosen) == 120 and min(counts) >= 3 and abs(sum(counts) / 120 - 8.0) < 0.05
    assert [one.id for one in chosen] == sorted(one.id for one in chosen)
    kinds = Counter(one.kind for one in chosen)
    assert max(kinds.values()) - min(kinds.values()) < 20
    assert chosen == select(cards[::-1], wanted, 0)
    assert chosen != select(cards, wanted, 1)
    assert select(cards, SplitConfig(), 0) == cards


def test_rl_takes_what_was_asked_for_and_counts_the_rest() -> None:
    turns = {"low": 2, "high": 10, "mean": 8.33}
    asked = recipe(bootstrap={"rl": {"size": 40, "turns": turns}, "rl_history_risk": 0.2})
    pools, whole = divided(asked, pool()), divided(recipe(), pool())
    counts = [len(one.turns) for one in pools.rl]
    assert len(counts) == 40 and abs(sum(counts) / 40 - 8.33) < 0.1
    assert pools.sft == whole.sft
    assert {s.id for s in (*pools.rl, *pools.plain, *pools.spare)} == {s.id for s in whole.rl}
    assert pools.plain and all(one.is_unsafe and one.turns[0].risk == 5 for one in pools.plain)


def test_a_folder_of_strategies_joins_the_built_in_ones(tmp_path: Path) -> None:
    from safer_steer.actors.generating import load_strategies

    body = "description: Mine.\ntechniques: [slowly]\n"
    (tmp_path / "b.yaml").write_text(f"id: mine_b\n{body}")
    (tmp_path / "a.yaml").write_text(f"id: mine_a\n{body}")
    loaded = load_strategies(("roleplay",), str(tmp_path))
    assert [strategy.id for strategy in loaded] == ["roleplay", "mine_a", "mine_b"]
    (tmp_path / "a.yaml").write_text("id: mine_a\nwhat: unknown\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: field"):
        load_strategies((), str(tmp_path))
    with pytest.raises(ConfigError, match=r"no \*\.yaml in the folder"):
        load_strategies((), str(tmp_path / "nowhere"))
