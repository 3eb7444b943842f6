"""Stage II's data: thresholds to the letter, pools by seed, and resume."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from builders import Pulled, divided, recipe
from people import STAMP, ToldAssistant, ToldJudge, ToldModel, answer, script
from safer_steer.actors.chat import Completion, Message, Sampling
from safer_steer.actors.red import LlmRed
from safer_steer.bootstrap import Dropped, DropReason, Shelf, forecast, shortcoming, stage
from safer_steer.config import BootstrapConfig, Recipe
from safer_steer.dialogue import (
    Answer,
    FinishReason,
    History,
    Rollout,
    Script,
    ScriptKind,
    Split,
    StopReason,
    Turn,
    UserTurn,
    stable_id,
)
from safer_steer.errors import Incomplete, StageError, StorageError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.seats import Needs, UserMove
from safer_steer.store import read_records
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict

FINAL = ("kept.jsonl", "dropped.jsonl", "rl.jsonl", "val.jsonl", "stage.json")


def score(safety: float, usefulness: float) -> Scored:
    scores = {"safety": float(safety), "usefulness": float(usefulness), "faithfulness": 10.0}
    return Scored(scores=scores, rationale="told so", stamp=STAMP)


def judged(*verdicts: Verdict, stop: StopReason = StopReason.COMPLETED, fault: str | None = None) -> Rollout:
    turns = tuple(
        Turn(index=i, user=f"u{i}", answer=answer(f"a{i}"), verdict=verdict) for i, verdict in enumerate(verdicts, 1)
    )
    return Rollout(script=script(*(t.user for t in turns)), turns=turns, stop=stop, fault=fault)


THRESHOLDS = BootstrapConfig(tau_safe=8, tau_help=7.0)
MUMBLED = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="mumbled")
LOST = Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="no route")


def stopped(finish: FinishReason, first: Verdict | None = None) -> Rollout:
    """Two turns, unsafe and useless besides, the second answer stopped by its limit or a filter."""
    whole = judged(score(1, 1) if first is None else first, score(1, 1))
    last = whole.turns[1].model_copy(update={"answer": whole.turns[1].answer.model_copy(update={"finish": finish})})
    return whole.model_copy(update={"turns": (whole.turns[0], last)})


@pytest.mark.parametrize(
    ("rollout", "reason", "detail"),
    [
        (judged(score(8, 7), score(8, 7)), None, ""),
        (judged(score(10, 4), score(10, 10)), None, ""),
        (judged(score(10, 10), score(7, 10)), DropReason.UNSAFE, "turn 2: safety 7 < 8"),
        (judged(score(10, 6), score(10, 7)), DropReason.UNHELPFUL, "mean usefulness 6.50 < 7"),
        (judged(score(10, 10), LOST), DropReason.UNSCORED, "turn 2: judge_unreachable: no route"),
        (judged(score(1, 1), LOST), DropReason.UNSCORED, "turn 2: judge_unreachable: no route"),
        (
            judged(score(10, 10), stop=StopReason.ASSISTANT_FAULT, fault="gone"),
            DropReason.FAULT,
            "assistant_fault: gone",
        ),
        (judged(score(10, 10), stop=StopReason.CRITERION), DropReason.FAULT, "criterion: None"),
        (stopped(FinishReason.LENGTH), DropReason.CUT_OFF, "turn 2: the answer was stopped (length)"),
        (stopped(FinishReason.FILTER), DropReason.CUT_OFF, "turn 2: the answer was stopped (filter)"),
        (stopped(FinishReason.LENGTH, LOST), DropReason.UNSCORED, "turn 1: judge_unreachable: no route"),
    ],
)
def test_the_filter_to_the_letter(rollout: Rollout, reason: DropReason | None, detail: str) -> None:
    found = shortcoming(rollout, THRESHOLDS)
    if reason is None:
        assert found is None
    else:
        assert found == Dropped(rollout=rollout, reason=reason, detail=detail)


marks = st.integers(1, 10)


@given(st.lists(st.tuples(marks, marks), min_size=1, max_size=10), marks, st.floats(1, 10))
def test_kept_iff_both_thresholds_hold(pairs: list[tuple[int, int]], tau_safe: int, tau_help: float) -> None:
    config = BootstrapConfig(tau_safe=tau_safe, tau_help=tau_help)
    kept = shortcoming(judged(*(score(*pair) for pair in pairs)), config) is None
    safe = all(safety >= tau_safe for safety, _ in pairs)
    useful = sum(usefulness for _, usefulness in pairs) / len(pairs) >= tau_help
    assert kept == (safe and useful)


class Rewrites:
    """A red agent that repeats the script in capitals; dies when told to."""

    needs = Needs.ANSWER

    def __init__(self, pull_at: int | None = None) -> None:
        self.pull_at, self.said = pull_at, 0

    async def speak(self, script: Script, exchanges: tuple, verdict: Verdict | None) -> UserMove:
        self.said += 1
        if self.said == self.pull_at:
            raise Pulled
        return UserMove(script.turns[len(exchanges)].text.upper(), "rewrite")


def made(seeds: int = 20) -> list[Script]:
    """Scripts of all kinds: seeds 0… alternate over two categories and the three splits."""
    scripts = []
    for number in range(seeds):
        split = (Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.VAL, Split.TEST)[number % 5]
        for kind in (ScriptKind.BENIGN,) if number % 4 == 0 else (ScriptKind.RED_TEAM, ScriptKind.OBFUSCATED):
            words = [" ".join(stable_id(number, kind, t)[i : i + 3] for i in range(0, 15, 3)) for t in range(3)]
            one = script(*words, id=f"s{number:02}-{kind}", kind=kind, split=split)
            scripts.append(one.model_copy(update={"seed_id": f"seed-{number}", "category": "ab"[number % 2]}))
    return scripts


def judge() -> ToldJudge:
    def told(history: History, text: str) -> Verdict:
        lot = int(stable_id(history.script.id, history.index), 16) % 12
        return MUMBLED if lot == 0 else score(6, 8) if lot == 1 else score(10, 9)

    return ToldJudge(told)


def bootstrap(root: Path, rcp=None, scripts=None, red=None, blue=None, reward_judge=None) -> dict:
    work = stage.bootstrap(
        recipe() if rcp is None else rcp,
        RunFolder(root),
        scripts=made() if scripts is None else scripts,
        red=Rewrites() if red is None else red,
        blue=ToldAssistant(lambda history: f"no to {history.user}") if blue is None else blue,
        reward_judge=judge() if reward_judge is None else reward_judge,
        report=Silent(),
    )
    return asyncio.run(work)


def test_pools_are_by_seed_and_nothing_is_lost(tmp_path: Path) -> None:
    result = bootstrap(tmp_path)
    folder = tmp_path / "bootstrap"
    kept = list(read_records(folder / "kept.jsonl", Rollout))
    dropped = list(read_records(folder / "dropped.jsonl", Dropped))
    rl = list(read_records(folder / "rl.jsonl", Script))
    val = list(read_records(folder / "val.jsonl", Script))
    played = [r.script for r in kept] + [d.rollout.script for d in dropped]
    train = [s for s in made() if s.split is Split.TRAIN]
    assert sorted(s.id for s in [*played, *rl]) == sorted(s.id for s in train)
    assert not {s.seed_id for s in played} & {s.seed_id for s in rl}
    assert [s.id for s in val] == sorted(s.id for s in made() if s.split is Split.VAL)
    assert result["kept"] == len(kept) > 0 and sum(result["dropped"].values()) == len(dropped) > 0
    assert result["rl"] == len(rl) and result["val"] == len(val)
    assert len({s.seed_id for s in played}) == round(0.6 * len({s.seed_id for s in train}))
    assert all(turn.user == turn.user.upper() and turn.scripted is not None for r in kept for turn in r.turns)
    assert result["kept_means"]["safety"] == 10.0


def test_strata_keep_their_shares() -> None:
    pools = divided(recipe(), made(200))
    taught = {s.seed_id for s in pools.sft}
    for kind in ScriptKind:
        for category in "ab":
            seeds = {
                s.seed_id for s in made(200) if s.split is Split.TRAIN and (s.kind, s.category) == (kind, category)
            }
            assert abs(len(seeds & taught) - 0.6 * len(seeds)) < 1


def test_the_division_depends_on_the_seed_and_on_nothing_else() -> None:
    one = divided(recipe(), made(60))
    assert one == divided(recipe(), made(60)[::-1])
    assert one != divided(recipe(seed=1), made(60))


def test_rl_does_not_repeat_sft() -> None:
    scripts = made(60)
    pools = divided(recipe(), scripts)
    twin = pools.rl[0].model_copy(update={"turns": pools.sft[0].turns})
    again = divided(recipe(), [twin if s.id == twin.id else s for s in scripts])
    assert [s.id for s in again.repeats] == [twin.id] and twin not in again.rl
    assert again.sft == pools.sft


def test_rl_does_not_repeat_an_sft_script_that_repeats_another_one() -> None:
    scripts = made(60)
    pools = divided(recipe(), scripts)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    first, second, third = (
        one.model_copy(update={"turns": (UserTurn(text=" ".join(words[start : start + 8])),)})
        for start, one in enumerate((pools.sft[0], pools.sft[1], pools.rl[0]))
    )
    changed = {one.id: one for one in (first, second, third)}
    near = recipe(construction={"near_duplicate_jaccard": 0.7})
    again = divided(near, [changed.get(s.id, s) for s in scripts])
    assert [s.id for s in again.repeats] == [third.id], "it is like the second only, which is like the first"
    both = [s if s.id != pools.rl[1].id else s.model_copy(update={"turns": pools.rl[0].turns}) for s in scripts]
    assert not divided(recipe(), both).repeats, "what repeats only another RL script repeats nothing of SFT"


@pytest.mark.parametrize("pull_at", [1, 7, 25])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, pull_at: int) -> None:
    bootstrap(tmp_path / "calm")
    with pytest.raises((Pulled, ExceptionGroup)):
        bootstrap(tmp_path / "rough", red=Rewrites(pull_at))
    before = [r.key for r in read_records(tmp_path / "rough" / "bootstrap" / "rollouts.jsonl", Rollout)]
    blue = ToldAssistant(lambda history: f"no to {history.user}")
    bootstrap(tmp_path / "rough", blue=blue)
    assert not {f"{h.script.id}#0" for h in blue.seen} & set(before)
    for name in FINAL:
        rough, calm = (tmp_path / run / "bootstrap" / name for run in ("rough", "calm"))
        assert rough.read_bytes() == calm.read_bytes(), name


def test_a_second_run_returns_at_once_and_another_recipe_is_refused(tmp_path: Path) -> None:
    first = bootstrap(tmp_path)
    red = Rewrites()
    assert bootstrap(tmp_path, red=red) == first and red.said == 0
    with pytest.raises(StorageError, match="another recipe"):
        bootstrap(tmp_path, recipe(bootstrap={"sft_share": 0.5}))


def seated(**more: object) -> Recipe:
    return recipe(seats={"red": "openai:red@http://h/v1", "blue": "openai:blue@http://h/v1"}, **more)


@pytest.mark.parametrize(
    "other",
    [
        seated(answer_format="tagged"),
        recipe(seats={"red": "openai:other@http://h/v1", "blue": "openai:blue@http://h/v1"}),
        recipe(seats={"red": "openai:red@http://h/v1", "blue": "openai:other@http://h/v1"}),
        recipe(seats={"red": "inspect:p/red", "blue": "openai:blue@http://h/v1"}),
    ],
)
def test_other_people_or_another_format_are_refused(tmp_path: Path, other: Recipe) -> None:
    """The people given are the same ones throughout: what binds is what the recipe says of them."""
    with pytest.raises((Pulled, ExceptionGroup)):
        bootstrap(tmp_path, seated(), red=Rewrites(7))
    with pytest.raises(StorageError, match="another recipe"):
        bootstrap(tmp_path, other)


def test_the_same_model_at_another_address_goes_on(tmp_path: Path) -> None:
    first = bootstrap(tmp_path, seated())
    moved = recipe(seats={"red": "openai:red@http://elsewhere/v1", "blue": "openai:blue@http://elsewhere/v1"})
    assert bootstrap(tmp_path, moved) == first


@pytest.mark.parametrize(
    "bootstrap_section",
    [{"tau_safe": 9}, {"tau_help": 8.5}, {"sft": {"size": 3}}, {"rl": {"size": 2}}, {"bench": {"size": 1}}],
)
def test_other_thresholds_and_sizes_sift_again_and_ask_nobody(tmp_path: Path, bootstrap_section: dict) -> None:
    bootstrap(tmp_path / "run", recipe(bootstrap={"tau_safe": 5, "tau_help": 1.0}))
    red, blue, wanted = Rewrites(), ToldAssistant(lambda history: "?"), recipe(bootstrap=bootstrap_section)
    again = bootstrap(tmp_path / "run", wanted, red=red, blue=blue)
    assert red.said == 0 and not blue.seen
    assert again == bootstrap(tmp_path / "fresh", wanted)
    for name in (*FINAL, "bench.jsonl", "contamination.json"):
        assert (tmp_path / "run/bootstrap" / name).read_bytes() == (tmp_path / "fresh/bootstrap" / name).read_bytes()


def test_a_few_dialogues_without_an_answer_are_a_stated_share_or_leave_the_stage_open(tmp_path: Path) -> None:
    lost = sorted(s.id for s in divided(recipe(), made()).sft)[0]

    def told(history: History, text: str) -> Verdict:
        return LOST if history.script.id == lost else score(10, 9)

    with pytest.raises(Incomplete, match=r"incomplete: 1 of \d+ dialogues got no answer.*max_undone_share, now 0\.02"):
        bootstrap(tmp_path, reward_judge=ToldJudge(told))
    assert RunFolder(tmp_path).finished("bootstrap") is None and not (tmp_path / "bootstrap/kept.jsonl").exists()
    blue = ToldAssistant(lambda history: f"no to {history.user}")
    result = bootstrap(tmp_path, recipe(max_undone_share=0.5), blue=blue, reward_judge=ToldJudge(told))
    assert result["undone"] == 1 and {history.script.id for history in blue.seen} == {lost}


def test_scripts_are_in_memory_only_while_they_are_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[weakref.ref[Script]] = []
    most = 0

    def noted(one: Script) -> Script:
        nonlocal most
        met.append(weakref.ref(one))
        most = max(most, sum(known() is not None for known in met))
        return one

    class Blue(ToldAssistant):
        async def answer(self, history: History) -> Answer:
            self.seen.clear()
            return await super().answer(history)

    class Reward(ToldJudge):
        async def assess(self, history: History, answer: str) -> Verdict:
            self.seen.clear()
            return await super().assess(history, answer)

    given = made(80)
    taken = Shelf.script
    monkeypatch.setattr(Shelf, "script", lambda shelf, card: noted(taken(shelf, card)))
    blue, reward = Blue(lambda history: "no"), Reward(lambda history, text: score(10, 9))
    result = bootstrap(tmp_path, scripts=(noted(one.model_copy()) for one in given), blue=blue, reward_judge=reward)
    assert result["kept"] + sum(result["dropped"].values()) > 30 and len(met) > 2 * len(given)
    assert most <= 8  # four dialogues are open at a time, and the last one that blue or the judge saw


def test_the_order_in_which_scripts_come_does_not_matter(tmp_path: Path) -> None:
    bootstrap(tmp_path / "one", scripts=made())
    assert bootstrap(tmp_path / "one", scripts=made()[::-1]) == RunFolder(tmp_path / "one").finished("bootstrap")
    bootstrap(tmp_path / "two", scripts=made()[::-1])
    for name in FINAL:
        one, two = (tmp_path / run / "bootstrap" / name for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name


def test_nothing_kept_is_an_error_that_says_why(tmp_path: Path) -> None:
    strict = ToldJudge(lambda history, text: score(5, 10))
    with pytest.raises(StageError, match=r"no dialogue passes.*unsafe \d+"):
        bootstrap(tmp_path, reward_judge=strict)
    assert list(read_records(tmp_path / "bootstrap" / "dropped.jsonl", Dropped))


def test_a_judge_that_was_away_is_asked_again(tmp_path: Path) -> None:
    away = ToldJudge(lambda history, text: LOST)
    with pytest.raises(StageError, match=r"dialogues got no answer, such as: judge_unreachable: no route"):
        bootstrap(tmp_path / "rough", reward_judge=away)
    assert bootstrap(tmp_path / "rough") == bootstrap(tmp_path / "calm")


def test_a_red_agent_that_declines_spoils_its_dialogues_and_the_stage_ends(tmp_path: Path) -> None:
    lost = sorted(s.id for s in divided(recipe(), made()).sft)[0]
    second = next(s for s in made() if s.id == lost).turns[1].text

    class Red(ToldModel):
        async def complete(
            self, messages: Sequence[Message], sampling: Sampling, schema: type[BaseModel] | None = None
        ) -> Completion:
            declines = any(second in message.text for message in messages)
            text = "I'm sorry, but I can't help with that." if declines else '{"user": "And then?"}'
            return (await super().complete(messages, sampling, schema)).model_copy(update={"text": text})

    result = bootstrap(tmp_path, red=LlmRed(Red("")), reward_judge=ToldJudge(lambda history, text: score(10, 9)))
    assert (result["undone"], result["dropped"]) == (0, {"fault": 1})
    (dropped,) = read_records(tmp_path / "bootstrap" / "dropped.jsonl", Dropped)
    assert dropped.rollout.script.id == lost and len(dropped.rollout.turns) == 1
    assert dropped.detail.startswith(f"user_unusable: {lost}: the red agent wrote no usable turn: ")


def test_forecast_counts_calls(tmp_path: Path) -> None:
    told = forecast(recipe(), made())
    blue = ToldAssistant(lambda history: "no")
    bootstrap(tmp_path, blue=blue)
    rewritten = len(blue.seen) - told["sft"]  # the first turn is said as it is written
    assert told["calls"] == {"red": rewritten, "blue": len(blue.seen), "reward_judge": len(blue.seen)}
    assert told["sft"] * 3 == len(blue.seen)
