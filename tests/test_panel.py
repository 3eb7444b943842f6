"""A panel's rule, what it does with members that give nothing, and how panels and guards are named and seated."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from people import STAMP, ToldAssistant, ToldJudge, ToldModel, guarded, history, scored, script
from safer_steer.actors.guards import GuardKind, LlamaGuard, StrongReject, WildGuard
from safer_steer.actors.judge import RubricJudge
from safer_steer.actors.judging import OneJudge, PanelOf, parse_judge_spec
from safer_steer.actors.moderation import ModerationGuard
from safer_steer.actors.panel import PANEL_SPLIT, Panel, PanelRule, combine, decide
from safer_steer.actors.specs import Seating
from safer_steer.bench.books import was_away
from safer_steer.bench.evaluate import Evaluation, Session, run_eval
from safer_steer.config import EvalConfig, Recipe, recipe_from
from safer_steer.dialogue import History
from safer_steer.errors import ActorError, BadVerdict, ConfigError, StageError
from safer_steer.image_store import ImageStore
from safer_steer.pipeline import check_seats, evaluation_inputs
from safer_steer.progress import Silent
from safer_steer.report import write_eval_report
from safer_steer.report.results import read_result
from safer_steer.seats import Judge, ScriptUser
from safer_steer.verdict import EVALUATION, GUARD, Scale, Scored, Stamp, Unscored, UnscoredReason, Verdict

MEDIAN, MAJORITY = PanelRule.MEDIAN, PanelRule.MAJORITY
GONE = Unscored(reason=UnscoredReason.UNPARSEABLE, detail="prose", stamp=STAMP)
REFUSED = Unscored(reason=UnscoredReason.REFUSED, detail="declined", stamp=STAMP)


def made(*members: Verdict, rule: PanelRule = MEDIAN, quorum: int | None = None, scales: list[Scale] | None = None):
    return combine(members, scales or [EVALUATION] * len(members), rule, quorum, STAMP)


def levels(*values: int) -> list[Scored]:
    return [scored(value, abs(value)) for value in values]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7))
def test_the_median_is_a_grade_that_a_member_gave_and_the_stricter_of_two(values: list[int]) -> None:
    decided = decide(values, MEDIAN)
    assert decided in values
    assert decided == statistics.median_low(values)
    assert decide([-value for value in values], MEDIAN, higher_is_worse=True) == -decided


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7))
def test_a_majority_is_more_than_half_or_nothing(values: list[int]) -> None:
    decided = decide(values, MAJORITY)
    over = [value for value in set(values) if values.count(value) * 2 > len(values)]
    assert decided == (over[0] if over else None)


def test_a_verdict_has_its_members_and_says_how_it_came_about() -> None:
    verdict = made(*levels(3, 2, -1))
    assert isinstance(verdict, Scored)
    assert verdict.scores == {"safety": 2, "helpfulness": 2}
    assert verdict.rationale == "median of safety 3, 2, -1; helpfulness 3, 2, 1"
    assert verdict.members == tuple(levels(3, 2, -1))
    assert Scored.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_member_without_a_score_is_given_none() -> None:
    verdict = made(scored(3), GONE, scored(1))
    assert isinstance(verdict, Scored) and verdict.scores["safety"] == 1
    assert verdict.rationale.endswith("(1 unscored)")
    for members in ((scored(3), GONE, REFUSED), (GONE, GONE, REFUSED), (scored(3), GONE)):
        verdict = made(*members)
        assert isinstance(verdict, Unscored) and verdict.reason is UnscoredReason.NO_QUORUM
        assert verdict.members == members
    assert made(scored(3), GONE, REFUSED).detail == "1 of 3 judges gave safety, 2 are needed: refused 1, unparseable 1"


def test_the_quorum_can_be_set() -> None:
    assert isinstance(made(scored(3), GONE, REFUSED, quorum=1), Scored)
    assert isinstance(made(scored(3), scored(3), REFUSED, quorum=3), Unscored)


def test_without_a_majority_the_turn_is_unscored() -> None:
    verdict = made(*levels(3, 2, 1), rule=MAJORITY)
    assert isinstance(verdict, Unscored) and verdict.reason is UnscoredReason.NO_MAJORITY
    assert verdict.detail == "no majority for safety: 3, 2, 1"
    assert made(*levels(3, 3, 1), rule=MAJORITY).scores == {"safety": 3, "helpfulness": 3}


def test_guards_vote_by_themselves_and_the_stricter_wins_a_tie() -> None:
    verdict = made(guarded(True, "S1", refusal=False), guarded(False, refusal=True), scales=[GUARD, GUARD])
    assert isinstance(verdict, Scored) and verdict.scores == {"unsafe": 1}
    assert verdict.guard is not None
    assert (verdict.guard.categories, verdict.guard.refusal, verdict.guard.unsafe_prob) == (("S1",), False, None)
    assert verdict.flags == (PANEL_SPLIT,)


def test_rubrics_and_guards_sit_together_each_deciding_its_own() -> None:
    scales = [EVALUATION, EVALUATION, GUARD]
    verdict = made(scored(3), scored(3), guarded(True, "S9"), scales=scales)
    assert isinstance(verdict, Scored)
    assert verdict.scores == {"safety": 3, "helpfulness": 3, "unsafe": 1}
    assert (verdict.failed, verdict.flags) == (False, (PANEL_SPLIT,))
    lost = made(scored(3), scored(3), GONE, scales=scales)
    assert isinstance(lost, Unscored) and "gave unsafe" in lost.detail


def test_a_flag_needs_more_than_half() -> None:
    flagged = scored(3, flags=("over_refusal",))
    assert made(flagged, flagged, scored(3)).flags == ("over_refusal",)
    assert made(flagged, scored(3)).flags == ()


def test_over_refusal_is_up_to_the_members_who_tell_it() -> None:
    over, untold = scored(3, flags=("over_refusal",)), scored(3, flags=("over_refusal_not_told",))
    assert made(over, untold, untold).over_refusal is True
    assert made(scored(3), untold, untold).flags == ()
    assert made(over, scored(3), untold).flags == ()
    assert made(untold, untold).flags == ("over_refusal_not_told",)
    blind = made(over, guarded(False), guarded(False), scales=[EVALUATION, GUARD, GUARD])
    assert blind.flags == ("over_refusal",)
    assert made(guarded(False), guarded(False), scales=[GUARD, GUARD]).over_refusal is None


def signed(verdict: Scored, judge: str) -> Scored:
    return verdict.model_copy(update={"stamp": Stamp(judge=judge, prompt="p", version="1")})


class Told:
    """A judge with a scale."""

    stamp, scale = STAMP, EVALUATION

    def __init__(self, say: Verdict | Exception, name: str = "told") -> None:
        self._say = say
        self.stamp = Stamp(judge=name, prompt="p", version="1")

    async def assess(self, history: History, answer: str) -> Verdict:
        await asyncio.sleep(0)
        if isinstance(self._say, Exception):
            raise self._say
        return self._say


@pytest.mark.anyio
async def test_members_that_fail_are_members_without_a_score() -> None:
    away, bad = ActorError("away"), BadVerdict("prose", reason=UnscoredReason.OUT_OF_RANGE)
    panel = Panel([Told(scored(3)), Told(scored(2)), Told(away), Told(bad)], quorum=2)
    verdict = await panel.assess(history(), "a")
    assert isinstance(verdict, Scored) and verdict.scores["safety"] == 2
    assert [getattr(member, "reason", None) for member in verdict.members] == [
        None, None, UnscoredReason.JUDGE_UNREACHABLE, UnscoredReason.OUT_OF_RANGE,
    ]  # fmt: skip
    assert isinstance(panel, Judge)


@pytest.mark.anyio
async def test_what_stops_a_run_stops_it_from_inside_a_panel() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await Panel([Told(scored(3)), Told(StageError("no more retries"))]).assess(history(), "a")
    assert caught.group_contains(StageError)


def test_a_panel_that_cannot_decide_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Panel([Told(scored())])
    with pytest.raises(ConfigError, match="quorum of 3 with 2"):
        Panel([Told(scored()), Told(scored())], quorum=3)


def test_the_stamp_changes_with_the_members_and_the_rule() -> None:
    one, two = Told(scored(), "a"), Told(scored(), "b")
    stamps = [Panel([one, two]), Panel([one, one]), Panel([one, two], rule=MAJORITY), Panel([one, two], quorum=1)]
    assert len({panel.stamp for panel in stamps}) == 4
    assert Panel([one, two]).stamp.judge == "panel of a, b"
    assert Panel([one, two, one]).stamp.judge == "panel of 2*a, b"


@pytest.mark.anyio
async def test_a_panel_judged_evaluation_tells_how_far_they_agree(tmp_path: Path) -> None:
    class Strict(Told):
        async def assess(self, history: History, answer: str) -> Verdict:
            if history.script.id == "s2":
                raise ActorError("away")
            return signed(scored(-3 if history.index == 2 else 3), "strict")

    panel = Panel([Told(signed(scored(3), "mild"), "mild")] * 2 + [Strict(scored(), "strict")])
    scripts = [script("a", "b", "c", id=f"s{i}") for i in range(4)]
    of = Evaluation(ToldAssistant(lambda h: "fine"), panel, ScriptUser(), scripts, "told", "static", tmp_path, "m")
    summary = await run_eval(of, EvalConfig(), Session(4, Silent()))
    assert summary.agreement is not None
    assert summary.agreement.members == ("mild #1", "mild #2", "strict")
    assert (summary.agreement.turns, summary.agreement.split) == (12, 3)
    assert summary.agreement.unscored == {"mild #1": 0, "mild #2": 0, "strict": 3}
    assert summary.overall.counts.unscored == 0
    assert len((tmp_path / "disagreements.jsonl").read_text().splitlines()) == 3
    assert read_result(tmp_path).summary.agreement == summary.agreement
    assert write_eval_report(tmp_path, ImageStore(tmp_path / "images")).exists()


M = "openai:m@http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (M, M),
        ("scripted", "scripted"),
        ("llama-guard-3:meta/guard@http://h/v1/", "llama-guard-3:meta/guard@http://h/v1"),
        ("wildguard:openai:w@http://h/v1", "wildguard:w@http://h/v1"),
        ("strongreject:local:some/folder", "strongreject:local:some/folder"),
        ("strongreject:embedded", "strongreject:embedded"),
        (f"panel:[{M},{M}]", f"panel:[{M}, {M}]"),
        (f"panel:[ 3 * {M} , scripted,llama-guard-4:g@http://h/v1 ]", f"panel:[3*{M}, scripted, llama-guard-4:g@http://h/v1]"),
        ("panel:[local:a,b/c, scripted]", "panel:[local:a,b/c, scripted]"),
        ("panel:[2*strongreject:m@http://h/v1]", "panel:[2*strongreject:m@http://h/v1]"),
    ],
)  # fmt: skip
def test_judges_are_named_and_come_back(text: str, shown: str) -> None:
    parsed = parse_judge_spec(text)
    assert str(parsed) == shown
    assert parse_judge_spec(str(parsed)) == parsed
    assert isinstance(parsed, PanelOf if text.startswith("panel") else OneJudge)


@pytest.mark.parametrize(
    "text",
    [
        "", "panel", "panel:", "panel:[]", "panel:[ ]", f"panel:[{M}]", f"panel:{M}, {M}", f"panel:[{M}, ]",
        f"panel:[panel:[{M}, {M}], {M}]", f"panel:[0*{M}, {M}]", f"panel:[100*{M}]", "panel:[scripted; scripted]",
        "panel:[2*scripted]", "panel:[3*llama-guard-3:g@http://h/v1]", "panel:[2*openai-moderation:o@http://h/v1]",
        "llama-guard:m@http://h/v1", "llama-guard-3", "llama-guard-3:", "llama-guard-3:m", "llama-guard-3:scripted",
        "openai-moderation:local:x", "openai-moderation:m", "wildguard:m@ftp://h", "Wildguard:m@http://h/v1",
        "strongreject:llama-guard-3:m@http://h/v1", "gpt-5",
    ],
)  # fmt: skip
def test_anything_else_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_judge_spec(text)
    assert caught.value.hint and "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.text(max_size=30).map(lambda inner: f"panel:[{inner}]"))
def test_any_text_names_a_judge_or_is_a_config_error(text: str) -> None:
    try:
        parsed = parse_judge_spec(text)
    except ConfigError:
        return
    assert parse_judge_spec(str(parsed)) == parsed


def seated(judge: str, **settings: object) -> Recipe:
    return recipe_from({"seats": {"judge": judge}, "eval": settings})


@pytest.mark.anyio
async def test_every_guard_can_be_seated(tmp_path: Path) -> None:
    expected = dict.fromkeys(GuardKind, LlamaGuard) | {
        GuardKind.WILDGUARD: WildGuard,
        GuardKind.STRONGREJECT: StrongReject,
        GuardKind.OPENAI_MODERATION: ModerationGuard,
    }
    for kind, guard in expected.items():
        recipe = seated(f"{kind}:m@http://127.0.0.1:8000/v1")
        check_seats(recipe)
        async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
            judge = seats.judge()
            assert type(judge) is guard and judge.stamp.judge == f"{kind} m"


@pytest.mark.anyio
async def test_a_panel_is_seated_and_repeats_are_drawn_differently(tmp_path: Path) -> None:
    recipe = seated(f"panel:[3*{M}, llama-guard-3:g@http://127.0.0.1:8000/v1]", panel={"quorum": 2, "temperature": 0.5})
    async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
        panel = seats.judge()
        assert isinstance(panel, Panel)
        members = panel._members
        assert [type(member) for member in members] == [RubricJudge] * 3 + [LlamaGuard]
        samplings = [member._sampling for member in members[:3]]
        assert [(s.temperature, s.seed) for s in samplings] == [(0.5, 0), (0.5, 1), (0.5, 2)]
        assert len({member.stamp for member in members[:3]}) == 1
        assert panel.stamp.version == "median, quorum 2"


@pytest.mark.anyio
async def test_a_prompt_of_ones_own_is_read_from_its_file_and_binds_the_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.md"
    file.write_text("---\nversion: mine\n---\nGrade.\n<!-- user -->\n{{ answer }}\n")
    recipe = seated(M, judge_prompts={"rubric": str(file)})
    async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
        assert seats.judge().stamp.version == "mine"
    before = evaluation_inputs(recipe, M, "static")
    file.write_text(file.read_text() + "more\n")
    assert evaluation_inputs(recipe, M, "static") != before
    with pytest.raises(ConfigError, match="No such file"):
        evaluation_inputs(seated(M, judge_prompts={"rubric": str(tmp_path / "no.md")}), M, "static")
    with pytest.raises(ConfigError, match="judge_prompts"):
        seated(M, judge_prompts={"nobody": "x"})


def test_a_guard_or_panel_takes_no_seat_but_the_judges() -> None:
    with pytest.raises(ConfigError, match=r"seats\.tutor"):
        check_seats(Recipe(seats={"tutor": "llama-guard-3:m@http://h/v1"}))
    with pytest.raises(ConfigError, match=r"seats\.judge"):
        check_seats(seated("panel:[scripted]"))


def test_a_recipe_names_a_panel_in_yaml() -> None:
    text = f"seats:\n  judge: 'panel:[{M}, scripted]'\neval:\n  panel: {{rule: majority, quorum: 2}}\n"
    recipe = recipe_from(yaml.safe_load(text))
    assert (recipe.eval.panel.rule, recipe.eval.panel.quorum) == ("majority", 2)
    with pytest.raises(ConfigError):
        recipe_from({"eval": {"panel": {"rule": "mean"}}})


@pytest.mark.anyio
async def test_one_confused_judge_does_not_cost_the_turn() -> None:
    grade = {"rationale": "r", "safety": 3, "helpfulness": 3}
    panel = Panel([RubricJudge(ToldModel(grade)), RubricJudge(ToldModel("hm")), RubricJudge(ToldModel(grade))])
    verdict = await panel.assess(history("a1"), "a2")
    assert isinstance(verdict, Scored) and verdict.scores == {"safety": 3, "helpfulness": 3}


def test_a_panel_that_lost_a_judge_to_an_outage_is_asked_again_later() -> None:
    away = Unscored(reason=UnscoredReason.JUDGE_UNREACHABLE, detail="away", stamp=STAMP)
    assert was_away(made(scored(3), away, GONE)) and was_away(away)
    assert not was_away(made(scored(3), REFUSED, GONE)) and not was_away(made(scored(3), scored(3), away))


@pytest.mark.anyio
async def test_how_many_dialogues_keep_a_judges_servers_busy(tmp_path: Path) -> None:
    async with Seating(Recipe(), ImageStore(tmp_path), environ={}) as seats:
        assert (
            seats.room(f"panel:[scripted, 2*{M}]")
            == seats.room(M)
            == seats.room("wildguard:w@http://127.0.0.1:8000/v1")
        )
        assert seats.room("panel:[scripted, local:x]") is None


def test_told_judges_are_judges() -> None:
    assert isinstance(ToldJudge(lambda history, answer: scored()), Judge)
