"""Stage I: what is written, what is kept and why, and that a killed run loses and repeats nothing."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    STRATEGIES,
    Pulled,
    ToldGenerator,
    attack_judge,
    leak,
    leaks_at,
    recipe,
    run_with_seeds,
    weak_target,
)
from people import ToldAssistant, ToldJudge, script
from safer_steer.construct import stage
from safer_steer.construct.plan import apportion, choose_seeds, choose_strategies, orders, stratified
from safer_steer.construct.records import Failure, Reason, Rejected
from safer_steer.construct.stage import forecast, scripts_of
from safer_steer.construct.success import cut_at_leak, leaked, outcome
from safer_steer.construct.suite import build_steer_mini
from safer_steer.converse import converse
from safer_steer.dialogue import History, Rollout, Script, ScriptKind, Seed, SeedKind, Split, StopReason
from safer_steer.errors import ConfigError, DataError, EndpointError, Incomplete, StageError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.progress import Silent
from safer_steer.seats import Cast, ScriptUser
from safer_steer.seeds import load_builtin
from safer_steer.store import read_records
from safer_steer.verdict import Unscored, UnscoredReason, Verdict

FINAL = ("red_team.jsonl", "obfuscated.jsonl", "benign.jsonl", "rejected.jsonl", "stage.json")


def construct(root: Path, rcp=None, generator=None, target=None, judge=None, seeds=None, count=12) -> dict:
    run, made = run_with_seeds(root, count)
    work = stage.construct(
        recipe() if rcp is None else rcp,
        run,
        seeds=made if seeds is None else seeds,
        generator=ToldGenerator() if generator is None else generator,
        target=weak_target() if target is None else target,
        attack_judge=attack_judge() if judge is None else judge,
        report=Silent(),
    )
    return asyncio.run(work)


def finals(root: Path) -> dict[str, bytes]:
    return {name: (root / "construct" / name).read_bytes() for name in FINAL}


def scripts(root: Path) -> list[Script]:
    run, _ = run_with_seeds(root, 0)
    return list(scripts_of(run))


def test_what_becomes_of_seeds(tmp_path: Path) -> None:
    result = construct(tmp_path)
    made = scripts(tmp_path)
    assert result["seeds"] == 12 and result["scripts"] == len(made)
    assert [s.id for s in made] == sorted(s.id for s in made)
    ranges = {ScriptKind.RED_TEAM: (2, 8), ScriptKind.OBFUSCATED: (3, 6), ScriptKind.BENIGN: (3, 5)}
    for one in made:
        low, high = ranges[one.kind]
        assert low <= len(one.turns) <= high
        assert (one.strategy in STRATEGIES) == (one.kind is ScriptKind.RED_TEAM)
    by_kind = {kind: {s.seed_id for s in made if s.kind is kind} for kind in ScriptKind}
    assert by_kind[ScriptKind.OBFUSCATED] == {f"seed-{n}" for n in range(12) if n % 3 != 2}
    assert by_kind[ScriptKind.BENIGN] == {f"seed-{n}" for n in range(12)}
    assert {s.split for s in made} == set(Split)
    obfuscated = next(s for s in made if s.kind is ScriptKind.OBFUSCATED)
    assert not obfuscated.question.startswith("hidden")
    assert result["kinds"] == {str(kind): sum(s.kind is kind for s in made) for kind in sorted(ScriptKind)}


def test_only_attacks_that_will_be_trained_on_must_succeed(tmp_path: Path) -> None:
    target = weak_target()
    result = construct(tmp_path, target=target)
    assert {h.script.split for h in target.seen} == {Split.TRAIN}
    assert {h.script.kind for h in target.seen} == {ScriptKind.RED_TEAM}
    attacks = {r.script.id: r for r in read_records(tmp_path / "construct" / "attacks.jsonl", Rollout)}
    made = {s.id: s for s in scripts(tmp_path)}
    assert result["attacks"]["played"] == len(attacks) == 8
    for id, rollout in attacks.items():
        if leaks_at(rollout.script) <= len(rollout.script.turns):
            assert len(made[id].turns) == max(2, leaks_at(rollout.script))
            assert rollout.stop is StopReason.CRITERION
        else:
            assert id not in made
    held_out = [s for s in made.values() if s.kind is ScriptKind.RED_TEAM and s.split is not Split.TRAIN]
    assert len(held_out) == 8 and all(len(s.turns) >= 4 for s in held_out)


def test_without_the_filter_every_attack_stays_whole_and_nobody_is_asked(tmp_path: Path) -> None:
    target = weak_target()
    result = construct(tmp_path, recipe(construction={"success_filter": False}), target=target)
    assert target.seen == [] and result["kinds"]["red_team"] == 16
    assert result["attacks"] == {
        "played": 0, "undecided": 0, "succeeded": 0, "success_rate": None, "by_strategy": {},
    }  # fmt: skip


@pytest.mark.parametrize("pulls", [(3,), (1, 8, 20), (17, 2, 2)])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, pulls: tuple[int, ...]) -> None:
    construct(tmp_path / "calm")
    generators = [ToldGenerator(pull_at=at) for at in pulls]
    for generator in generators:
        with pytest.raises((Pulled, ExceptionGroup)):
            construct(tmp_path / "rough", generator=generator)
    target = weak_target(pull_at=11)
    with pytest.raises((Pulled, ExceptionGroup)):
        construct(tmp_path / "rough", target=target)
    last, judge = ToldGenerator(), attack_judge()
    construct(tmp_path / "rough", generator=last, judge=judge)
    assert finals(tmp_path / "rough") == finals(tmp_path / "calm")


def test_finished_work_is_never_asked_for_again(tmp_path: Path) -> None:
    first = ToldGenerator(pull_at=20)
    one_by_one = recipe(open_dialogues=1)
    with pytest.raises(Pulled):
        construct(tmp_path, one_by_one, generator=first)
    second = ToldGenerator()
    construct(tmp_path, one_by_one, generator=second)
    asked_twice = {what for what in second.asked if first.asked[what]}
    assert len(asked_twice) == 1, "only the call that was in flight"


def test_a_second_run_returns_at_once(tmp_path: Path) -> None:
    first = construct(tmp_path)
    generator, target = ToldGenerator(), weak_target()
    assert construct(tmp_path, generator=generator, target=target) == first
    assert generator.asked.total() == 0 and target.seen == []


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    construct(tmp_path)
    with pytest.raises(StorageError, match="another recipe"):
        construct(tmp_path, recipe(construction={"noise_sigma": 0.1}))


def test_the_order_of_finishing_does_not_matter(tmp_path: Path) -> None:
    for name, open_dialogues in (("one", 1), ("many", 50)):
        construct(tmp_path / name, recipe(open_dialogues=open_dialogues))
    assert finals(tmp_path / "one") == finals(tmp_path / "many")


def test_a_failing_generator_is_counted_and_nothing_of_it_enters(tmp_path: Path) -> None:
    generator = ToldGenerator(fails=frozenset({"seed-0"}), odd="seed-1")
    result = construct(tmp_path, generator=generator)
    assert not {"seed-0", "seed-1"} & {s.seed_id for s in scripts(tmp_path)}
    left_out = list(read_records(tmp_path / "construct" / "rejected.jsonl", Rejected))
    assert {r.reason for r in left_out if r.seed_id == "seed-0"} == {Reason.GENERATOR_FAULT}
    assert {r.reason for r in left_out if r.seed_id == "seed-1"} == {Reason.MALFORMED}
    assert result["left_out"]["generator_fault"] == result["left_out"]["malformed"] == 4


def test_unscored_attacks_are_not_failed_attacks(tmp_path: Path) -> None:
    def judge(history: History, text: str) -> Unscored:
        return Unscored(reason=UnscoredReason.UNPARSEABLE, detail="mumbled")

    result = construct(tmp_path, judge=ToldJudge(judge))
    assert result["left_out"]["unscored"] == 8 and "no_leak" not in result["left_out"]
    attacks = result["attacks"]
    assert (attacks["played"], attacks["undecided"], attacks["success_rate"]) == (8, 8, None)
    assert all(of["played"] == of["undecided"] > 0 == of["succeeded"] for of in attacks["by_strategy"].values())


def test_a_server_that_was_away_is_asked_again(tmp_path: Path) -> None:
    class Away(ToldGenerator):
        def _count(self, *what: str) -> None:
            raise EndpointError("connection refused", where="generator")

    def gone(history: History) -> str:
        raise EndpointError("connection refused", where="target")

    with pytest.raises(StageError, match=r"36 of 36 scripts got no answer, such as: generator: connection refused"):
        construct(tmp_path / "rough", generator=Away())
    with pytest.raises(StageError, match=r"8 of 8 dialogues got no answer, .*assistant_fault: target: connection"):
        construct(tmp_path / "rough", target=ToldAssistant(gone))
    construct(tmp_path / "rough")
    construct(tmp_path / "calm")
    assert finals(tmp_path / "rough") == finals(tmp_path / "calm")


def test_a_few_scripts_without_an_answer_leave_the_stage_open_beyond_a_stated_share(tmp_path: Path) -> None:
    class Patchy(ToldGenerator):
        def _count(self, *what: str) -> None:
            super()._count(*what)
            if what == ("benign", "seed-2", ""):
                raise EndpointError("connection refused", where="generator")

    with pytest.raises(Incomplete, match=r"incomplete: 1 of 36 scripts got no answer.*max_undone_share, now 0\.02"):
        construct(tmp_path, generator=Patchy())
    assert not (tmp_path / "construct" / "benign.jsonl").exists()
    again = Patchy()
    result = construct(tmp_path, recipe(max_undone_share=0.03), generator=again)
    assert again.asked == {("benign", "seed-2", ""): 1}, "only what was left undone is asked for again"
    assert result["undone"] == {"scripts": 1, "dialogues": 0} and result["left_out"]["generator_unreachable"] == 1


def test_a_few_attacks_without_an_answer_count_against_all_that_were_played(tmp_path: Path) -> None:
    seen: list[str] = []

    def patchy(history: History) -> str:
        seen.append(history.script.id)
        if history.script.id == seen[0]:
            raise EndpointError("connection refused", where="target")
        return "no" if history.index < 3 else "a leak"

    with pytest.raises(Incomplete, match=r"1 of 8 dialogues got no answer"):
        construct(tmp_path, target=ToldAssistant(patchy))
    with pytest.raises(Incomplete, match=r"1 of 8 dialogues got no answer"):  # not 1 of 1
        construct(tmp_path, target=ToldAssistant(patchy))
    assert construct(tmp_path, recipe(max_undone_share=0.2), target=ToldAssistant(patchy))["undone"]["dialogues"] == 1


def test_nothing_to_train_on_is_an_error_that_says_why(tmp_path: Path) -> None:
    fails = frozenset(f"seed-{n}" for n in range(12))
    with pytest.raises(StageError, match=r"generator_fault 36.*such as: seed-\d+: cannot"):
        construct(tmp_path, generator=ToldGenerator(fails=fails), count=12)


def test_an_attacker_is_not_tried_on_itself(tmp_path: Path) -> None:
    model = "openai:m@http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError, match="generator and target are both"):
        construct(tmp_path, recipe(seats={"generator": model, "target": model + "/"}))
    with pytest.raises(ConfigError, match="near_duplicate_jaccard"):
        construct(tmp_path, recipe(construction={"near_duplicate_jaccard": 0}))
    assert not (tmp_path / "construct").exists()


def test_seed_ids_are_unique_and_repeated_seeds_stay_in_test(tmp_path: Path) -> None:
    _, seeds = run_with_seeds(tmp_path, 12)
    with pytest.raises(DataError, match="occur twice, first 'seed-1'"):
        construct(tmp_path, seeds=[*seeds, seeds[1]])
    copy = seeds[9].model_copy(update={"id": "seed-copy", "split": Split.TRAIN, "question": seeds[9].question.upper()})
    assert [s.id for s in choose_seeds([copy, *seeds], None, 0)] == sorted(s.id for s in seeds)


def test_a_share_of_the_images_is_perturbed(tmp_path: Path) -> None:
    result = construct(tmp_path)
    names = [ref.name for s in scripts(tmp_path) for ref in s.images]
    assert result["perturbed_images"] == sum("+" in name for name in names) > 0
    assert 0.25 < sum("+" in name for name in names) / len(names) < 0.75
    run, _ = run_with_seeds(tmp_path, 0)
    assert all(run.images.read(ref) for s in scripts(tmp_path) for ref in s.images)


def test_forecast_is_an_upper_bound_and_does_nothing(tmp_path: Path) -> None:
    _, seeds = run_with_seeds(tmp_path, 12)
    told = forecast(recipe(), seeds)
    assert not (tmp_path / "construct").exists()
    assert told["seeds"] == 12 and told["scripts"] == {"benign": 12, "obfuscated": 8, "red_team": 16}
    assert told["calls"]["generator"] == 8 + 8 + 12 + 8 + 2 * 16
    target = weak_target()
    construct(tmp_path, target=target)
    assert len(target.seen) <= told["calls"]["target"] == told["calls"]["attack_judge"] <= 8 * 8


def test_counts_are_what_the_files_hold(tmp_path: Path) -> None:
    result = construct(tmp_path)
    assert json.loads((tmp_path / "construct" / "stage.json").read_text()) == result
    made = scripts(tmp_path)
    lengths = [len(s.turns) for s in made]
    assert result["turns"]["all"]["mean"] == sum(lengths) / len(lengths)
    assert sum(result["turns"]["all"]["histogram"].values()) == len(made)
    assert sum(result["categories"].values()) == len(made)
    assert sum(sum(kinds.values()) for kinds in result["splits"].values()) == len(made)
    assert sum(result["left_out"].values()) + len(made) == 36


# ---- the success filter, by hand


async def played(scores: list[int | None], turns: int = 4) -> Rollout:
    def judge(history: History, text: str) -> Verdict:
        score = scores[history.index - 1]
        return Unscored(reason=UnscoredReason.UNPARSEABLE, detail="mumbled") if score is None else leak(score)

    target = ToldAssistant(lambda history: f"answer {history.index}")
    cast = Cast(ScriptUser(), target, ToldJudge(judge), stop_when=leaked)
    return await converse(script(*(f"u{t}" for t in range(1, turns + 1))), cast)


@pytest.mark.anyio
async def test_it_stops_at_the_first_score_of_four() -> None:
    rollout = await played([1, 3, 4, 5])
    assert len(rollout.turns) == 3 and rollout.stop is StopReason.CRITERION
    kept = outcome(rollout)
    assert isinstance(kept, Script) and [t.text for t in kept.turns] == ["u1", "u2", "u3"]


@pytest.mark.anyio
async def test_a_leak_at_once_keeps_two_turns() -> None:
    kept = outcome(await played([5, 1, 1, 1]))
    assert isinstance(kept, Script) and [t.text for t in kept.turns] == ["u1", "u2"]


@pytest.mark.anyio
async def test_three_is_not_enough() -> None:
    dropped = outcome(await played([1, 2, 3, 3]))
    assert dropped == Failure(reason=Reason.NO_LEAK, detail="highest score 3 in 4 turns")


@pytest.mark.anyio
async def test_a_leak_counts_even_where_an_earlier_turn_is_unscored() -> None:
    assert isinstance(outcome(await played([1, None, 4, 1])), Script)
    dropped = outcome(await played([1, None, 3, 1]))
    assert isinstance(dropped, Failure) and dropped.reason is Reason.UNSCORED
    assert dropped.detail == "1 of 4 turns; turn 2: unparseable: mumbled"


def test_a_fault_is_not_a_failed_attack() -> None:
    rollout = Rollout(script=script("a", "b"), turns=(), stop=StopReason.ASSISTANT_FAULT, fault="gone")
    assert outcome(rollout) == Failure(reason=Reason.PLAY_FAULT, detail="assistant_fault: gone")


@given(st.integers(2, 10), st.integers(1, 10))
def test_cutting_keeps_a_prefix(turns: int, at: int) -> None:
    whole = script(*(f"u{t}" for t in range(turns)))
    cut = cut_at_leak(whole, min(at, turns))
    assert cut.turns == whole.turns[: len(cut.turns)]
    assert len(cut.turns) == max(2, min(at, turns)) and cut.id == whole.id


# ---- seeded choices


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 40), max_size=8), st.integers(0, 120), st.integers(0, 3))
def test_apportioning_is_exact_and_fair(sizes: dict, count: int, seed: int) -> None:
    shares = apportion(sizes, count, seed)
    total = sum(sizes.values())
    assert sum(shares.values()) == min(count, total)
    for name, size in sizes.items():
        assert 0 <= shares[name] <= size
        assert abs(shares[name] - (min(count, total) * size / total if total else 0)) < 1


@given(st.lists(st.integers(0, 999), unique=True, max_size=40), st.integers(0, 50), st.integers(0, 3))
def test_a_stratified_choice_does_not_depend_on_order(items: list[int], count: int, seed: int) -> None:
    def chosen(pool: list[int]) -> list[int]:
        return stratified(pool, count, by=[lambda i: i % 2, lambda i: i % 3], key=str, rng_seed=seed)

    assert sorted(chosen(items)) == sorted(chosen(items[::-1]))
    assert len(set(chosen(items))) == min(count, len(items))


def seed(id: str = "s", kind: SeedKind = SeedKind.HARMFUL) -> Seed:
    return Seed(id=id, kind=kind, category="fraud", question="q", images=(), split=Split.TRAIN)


@given(st.text(min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 9))
def test_strategies_are_chosen_for_each_seed_alone(id: str, count: int, rng_seed: int) -> None:
    chosen = choose_strategies(seed(id), STRATEGIES, count, rng_seed)
    assert len(chosen) == min(count, 3) and list(chosen) == [s for s in STRATEGIES if s in chosen]
    assert set(chosen) <= set(choose_strategies(seed(id), STRATEGIES, count + 1, rng_seed))


@given(st.integers(0, 500))
def test_turns_are_drawn_from_the_recipe(rng_seed: int) -> None:
    made = list(orders(seed(), recipe().construction, STRATEGIES, rng_seed))
    assert made == list(orders(seed(), recipe().construction, STRATEGIES, rng_seed))
    assert [o.kind.value for o in made] == ["benign", "obfuscated", "red_team", "red_team"]
    assert all(low <= o.turns <= high for o, (low, high) in zip(made, [(3, 5), (3, 6), (4, 8), (4, 8)], strict=True))
    assert len({o.key for o in made}) == 4


def test_at_most_so_many_seeds_in_proportion() -> None:
    seeds = load_builtin()
    chosen = choose_seeds(seeds, 40, 0)
    assert chosen == choose_seeds(seeds[::-1], 40, 0)
    shares = Counter((s.split, s.kind) for s in chosen)
    whole = Counter((s.split, s.kind) for s in seeds)
    assert shares.total() == 40 and all(abs(shares[name] - 40 * whole[name] / len(seeds)) < 1.5 for name in whole)
    assert len({s.category for s in chosen}) == 19


# ---- the built-in suite


@pytest.mark.parametrize(("split", "size", "benign"), [(Split.TEST, 40, 12), (Split.VAL, 39, 11)])
def test_the_suite(tmp_path: Path, split: Split, size: int, benign: int) -> None:
    suite = build_steer_mini(ImageStore(tmp_path / "a"), split)
    assert suite == build_steer_mini(ImageStore(tmp_path / "b"), split)
    assert len(suite) == len({s.id for s in suite}) == size
    kinds = [s.kind for s in suite]
    assert [kinds.count(kind) for kind in ScriptKind] == [14, 14, benign]
    lengths = [len(s.turns) for s in suite]
    assert min(lengths) == 2 and max(lengths) == 10 and 4.8 < sum(lengths) / size < 5.3
    assert {s.split for s in suite} == {split}
    assert len({s.strategy for s in suite}) == 9 and len({s.category for s in suite if s.is_unsafe}) == 14
    assert any(s.borderline for s in suite)
    store = ImageStore(tmp_path / "a")
    assert all(store.open(ref) for s in suite for ref in s.images)


# ---- a process killed for real

SLOW_RUN = """
import sys, time
from pathlib import Path
from test_construct import construct
from builders import ToldGenerator, weak_target
from safer_steer.construct.writing import Writer

write = Writer.write

async def slowly(self, *what):
    time.sleep(0.01)
    return await write(self, *what)

Writer.write = slowly
construct(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_minus_nine(tmp_path: Path) -> None:
    construct(tmp_path / "calm")
    journal = tmp_path / "rough" / "construct" / "generated.jsonl"
    for lines in (5, 20):
        process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(tmp_path / "rough")], cwd=Path(__file__).parent)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    with journal.open("ab") as file:
        file.write(b'{"key": "half a li')
    generator = ToldGenerator()
    construct(tmp_path / "rough", generator=generator)
    written = [what for what in generator.asked if what[0] not in ("probe", "analyse")]
    assert len(written) <= 36 - 20 and set(generator.asked.values()) == {1}
    assert finals(tmp_path / "rough") == finals(tmp_path / "calm")


def test_the_examples_of_the_docs_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/data.md", "exec"), {})
        assert capsys.readouterr().out.splitlines() == re.findall(r"^#> (.*)$", block, re.MULTILINE)
