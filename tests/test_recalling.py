"""What an adaptive evaluation takes over from the static one: what the model would write again, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import entry, serving, write_suite
from people import IMAGE, ToldAssistant, ToldJudge, answer, rollout, scored, script
from safer_steer import pipeline
from safer_steer.actors.adaptive import AdaptiveUser
from safer_steer.actors.chat import ChatModel, Completion, Message, Sampling
from safer_steer.actors.local.model import LocalModel
from safer_steer.actors.recalling import NOTHING, RecallingAssistant
from safer_steer.actors.specs import Seating
from safer_steer.bench import evaluate
from safer_steer.bench.books import done_dialogues, outcomes
from safer_steer.config import recipe_from
from safer_steer.converse import converse
from safer_steer.dialogue import (
    Answer,
    AnswerState,
    Exchange,
    History,
    Rollout,
    TokenTrace,
    Usage,
    UserTurn,
    stable_id,
)
from safer_steer.pipeline import Pipeline
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.seats import Cast, ScriptUser
from safer_steer.store import write_records
from safer_steer.verdict import Proposal, Verdict
from tiny_training import Killed, model_folder

OTHER = IMAGE.model_copy(update={"sha256": "b" * 64})


def traced(text: str, *ids: int) -> Answer:
    written = answer(text, trace=TokenTrace(context=(1,), response=ids, logprobs=(-0.5,) * len(ids)))
    return written.model_copy(update={"usage": Usage(prompt_tokens=9, completion_tokens=len(ids), seconds=2.0)})


def recorded() -> Rollout:
    """Three turns, the second one with an image of its own, the third one without an answer to show."""
    of = script("a?", "b?", "c?").model_copy(update={"images": (IMAGE,)})
    of = of.model_copy(update={"turns": (of.turns[0], UserTurn(text="b?", images=(IMAGE,)), of.turns[2])})
    answers = (traced("a!", 5, 2), traced("b!", 6, 2), answer("", AnswerState.EMPTY))
    whole = rollout(of, [scored()] * 3)
    turns = tuple(turn.model_copy(update={"answer": one}) for turn, one in zip(whole.turns, answers, strict=True))
    return whole.model_copy(update={"turns": turns})


def at_turn(number: int, of: Rollout, **other: Any) -> History:
    """The same dialogue before its answer `number`, or with something `other`."""
    said = tuple(Exchange(index=t.index, user=t.user, answer=t.answer) for t in of.turns[: number - 1])
    parts = {"script": of.script, "exchanges": said, "user": of.turns[number - 1].user, "sample": of.sample}
    return History(**{**parts, **other})


def ask(history: History) -> tuple[Answer, int]:
    """What the assistant says, and how often the model behind it was asked."""
    model, known = ToldAssistant(lambda history: "anew"), recorded()
    assistant = RecallingAssistant(model, {known.key: known}.get)
    found = asyncio.run(assistant.answer(history))
    assert assistant.recalled + len(model.seen) == 1
    return found, len(model.seen)


def test_the_recorded_answer_is_given_again_with_its_tokens_and_costs_nothing() -> None:
    known = recorded()
    for number in (1, 2):
        found, asked = ask(at_turn(number, known))
        written = known.turns[number - 1].answer
        assert not asked and found.usage == NOTHING
        assert found == written.model_copy(update={"usage": NOTHING}) and found.trace == written.trace


def test_another_dialogue_is_answered_anew() -> None:
    known = recorded()
    second = at_turn(2, known)
    [first] = second.exchanges
    of, turns = known.script, known.script.turns
    own = of.model_copy(update={"turns": (turns[0], turns[1].model_copy(update={"images": (OTHER,)}), turns[2])})

    def said(**other: object) -> tuple[Exchange, ...]:
        return (first.model_copy(update=other),)

    assert not ask(at_turn(2, known, exchanges=said(attack="coax", scripted="x")))[1]  # nothing that a model reads
    for other in (
        at_turn(2, known, user="B?"),
        at_turn(2, known, exchanges=said(user="A?")),
        at_turn(2, known, exchanges=said(answer=traced("A!", 5, 2))),
        at_turn(2, known, exchanges=said(answer=traced("a!", 7, 2))),  # the same text, by other tokens
        at_turn(2, known, exchanges=said(answer=answer("a!"))),
        at_turn(2, known, script=of.model_copy(update={"images": (OTHER,)})),
        at_turn(2, known, script=own),
        at_turn(2, known, script=of.model_copy(update={"id": "s2"})),
        at_turn(2, known, sample=1),
        at_turn(3, known),  # answered, but with nothing
        History(of, at_turn(3, known).exchanges[:1] * 3, "d?"),  # longer than what was played
    ):
        assert ask(other) == (answer("anew"), 1)
    assert not ask(at_turn(1, known, script=own))[1]  # the image of the second turn is not there yet


def test_dialogues_are_found_in_a_folder_by_their_key(tmp_path: Path) -> None:
    assert done_dialogues(tmp_path)("s1#0") is None
    played = [rollout(script("ä", "b", id=f"s{n}"), [scored(), scored()], sample=n) for n in range(3)]
    write_records(tmp_path / "rollouts.jsonl", played)
    find = done_dialogues(tmp_path)
    assert [find(one.key) for one in reversed(played)] == played[::-1]
    assert find("s1#0") is None


TEXTS = st.sampled_from(["tell me", "why?", "go on"])
SCRIPTS = st.lists(st.lists(TEXTS, min_size=1, max_size=4), min_size=1, max_size=3)


def by_what_was_read(history: History) -> Answer:
    """A greedy model: everything before the answer decides it; now and then it has nothing to say."""
    read = stable_id([(one.user, one.answer.raw) for one in history.exchanges], history.user)
    return answer("", AnswerState.EMPTY) if read < "3" else traced(f"said {read}", int(read[:4], 16))


def by_the_answer(history: History, text: str) -> Verdict:
    return scored(float(len(text) % 4), float(history.index % 4))


def attacking(where: set[tuple[int, int]]) -> Callable[[History, str], Verdict]:
    """A tutor that says something of its own after these (script, turn)."""

    def tutor(history: History, text: str) -> Verdict:
        moves = (int(history.script.id), history.index) in where
        return scored(proposal=Proposal(user="but still!", attack="persistence") if moves else None)

    return tutor


def without_cost(played: Rollout) -> Rollout:
    free = [t.model_copy(update={"answer": t.answer.model_copy(update={"usage": NOTHING})}) for t in played.turns]
    return played.model_copy(update={"turns": tuple(free)})


@given(SCRIPTS, st.sets(st.tuples(st.integers(0, 2), st.integers(1, 4))))
def test_recalling_changes_who_is_asked_and_nothing_else(
    texts: Sequence[Sequence[str]], where: set[tuple[int, int]]
) -> None:
    async def check() -> None:
        model, judge = ToldAssistant(by_what_was_read), ToldJudge(by_the_answer)
        attacked = AdaptiveUser(ToldJudge(attacking(where)))
        plans = [script(*users, id=str(number)) for number, users in enumerate(texts)]
        static = [await converse(plan, Cast(ScriptUser(), model, judge)) for plan in plans]
        plain = [await converse(plan, Cast(attacked, model, judge)) for plan in plans]
        model.seen.clear()
        judge.seen.clear()
        recalling = RecallingAssistant(model, {one.key: one for one in static}.get)
        found = [await converse(plan, Cast(attacked, recalling, judge)) for plan in plans]
        assert list(map(without_cost, found)) == list(map(without_cost, plain))
        turns = [turn for one in found for turn in one.turns]
        assert len(model.seen) + recalling.recalled == len(turns)
        assert len(judge.seen) == sum(turn.answer.state is AnswerState.OK for turn in turns)
        for history in model.seen:  # asked only where the tutor had spoken, or where there is nothing to recall
            spoke = "but still!" in (history.user, *(exchange.user for exchange in history.exchanges))
            assert spoke or by_what_was_read(history).state is AnswerState.EMPTY

    asyncio.run(check())


class Listener(Silent):
    """Keeps the notes; pulls the plug when so many dialogues of the adaptive evaluation were played."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.notes: list[str] = []
        self._left, self._adaptive = dies_after, False

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._adaptive |= text.startswith("base-static") or "eval/base-static:" in text

    def advance(self, n: int = 1, **facts: object) -> None:
        if self._adaptive and self._left is not None:
            self._left -= n
            if self._left == 0:
                raise Killed

    @property
    def recalled(self) -> list[str]:
        return [note for note in self.notes if "recalled" in note]


class Run:
    """A run whose training is over: a tiny student on a suite of three dialogues, of which the tutor attacks one."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = root, monkeypatch
        self.asked: list[Sequence[Message]] = []
        self.loaded = 0
        self.student = f"local:{model_folder(root)}"
        turns = ("tell me", "why?", "go on")
        self.suite = write_suite(root, *(entry(f"d{n}", turns[: n + 1]) for n in range(3)))
        monkeypatch.setattr(pipeline, "MODELS", ("base",))
        for module in (pipeline, evaluate):  # collecting what a test process holds takes longer than all the rest
            monkeypatch.setattr(module, "release_memory", lambda: None)
        monkeypatch.setattr(Seating, "judge", lambda seats: ToldJudge(by_the_answer))
        monkeypatch.setattr(Seating, "tutor", lambda seats, proposes: ToldJudge(self.attack))
        complete = LocalModel.complete

        async def counted(model: LocalModel, messages: Sequence[Message], sampling: Sampling) -> Completion:
            self.asked.append(messages)
            return await complete(model, messages, sampling)

        monkeypatch.setattr(LocalModel, "complete", counted)
        load = Seating._load

        def loading(seats: Seating, *args: Any) -> ChatModel:
            self.loaded += 1
            return load(seats, *args)

        monkeypatch.setattr(Seating, "_load", loading)

    @staticmethod
    def attack(history: History, text: str) -> Verdict:
        moves = history.script.id == "d2" and history.index == 1
        return scored(proposal=Proposal(user="but still!", attack="persistence") if moves else None)

    def evaluate(self, *protocols: str, out: str = "run", listener: Listener | None = None, **more: Any) -> Listener:
        self._patch.setattr(pipeline, "PROTOCOLS", protocols or ("static", "adaptive"))
        listener = Listener() if listener is None else listener
        values = {"suite": str(self.suite), "max_tokens": 6, **more.pop("eval", {})}
        recipe = recipe_from({"open_dialogues": 2, "seats": {"student": self.student}, "eval": values, **more})
        run = RunFolder(self.root / out)
        run.finish("grpo", {})
        self.asked.clear()
        asyncio.run(Pipeline(recipe, run, listener).evaluate_all())
        return listener

    def said(self, protocol: str, out: str = "run") -> dict[str, list[object]]:
        return {
            one.key: [(t.user, t.attack, t.answer.raw, t.answer.trace and t.answer.trace.response) for t in one.turns]
            for one in outcomes(self.root / out / "eval" / f"base-{protocol}")
        }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_a_run_writes_only_what_the_tutor_changed(run: Run) -> None:
    told = run.evaluate()
    assert told.recalled == ["eval base-adaptive: 4 answers recalled from base-static"]
    assert len(run.asked) == 6 + 2 and run.loaded == 1
    again = run.evaluate("adaptive", out="alone")  # no static evaluation stands beside it
    assert not again.recalled and len(run.asked) == 6
    assert run.said("adaptive") == run.said("adaptive", "alone") != run.said("static")
    turns = [turn for one in outcomes(run.root / "run" / "eval" / "base-adaptive") for turn in one.turns]
    assert sum(turn.answer.usage == NOTHING for turn in turns) == 4
    assert all(isinstance(turn.answer.trace, TokenTrace) for turn in turns)


@pytest.mark.parametrize("static_too", [False, True], ids=["adaptive", "and the static one gone"])
def test_killed_it_goes_on_and_recalls_again(run: Run, static_too: bool) -> None:
    with pytest.raises(Killed):
        run.evaluate(listener=Listener(dies_after=1))
    adaptive = run.root / "run" / "eval" / "base-adaptive"
    done = len((adaptive / "rollouts.jsonl").read_bytes().splitlines())
    assert done == 1 and not (adaptive / "stage.json").exists()
    if static_too:
        shutil.rmtree(adaptive.with_name("base-static"))
    told = run.evaluate()
    [note] = told.recalled
    assert 0 < int(note.split()[2]) < 4
    run.evaluate("adaptive", out="alone")
    assert run.said("adaptive") == run.said("adaptive", "alone")


def test_what_was_begun_otherwise_or_is_not_finished_is_left_alone(run: Run) -> None:
    run.evaluate("static")
    eval_folder = run.root / "run" / "eval"
    assert not run.evaluate("adaptive", eval={"max_tokens": 4}).recalled and len(run.asked) == 6
    shutil.rmtree(eval_folder / "base-adaptive")
    (eval_folder / "base-static" / "stage.json").rename(run.root / "stage.json")
    assert not run.evaluate("adaptive").recalled and len(run.asked) == 6
    shutil.rmtree(eval_folder / "base-adaptive")
    (run.root / "stage.json").rename(eval_folder / "base-static" / "stage.json")
    assert run.evaluate("adaptive").recalled and len(run.asked) == 2


def test_samples_are_drawn_anew(run: Run) -> None:
    assert not run.evaluate(eval={"temperature": 0.7}).recalled and len(run.asked) == 12


def test_a_server_is_always_asked(run: Run) -> None:
    with serving() as server:
        told = run.evaluate(seats={"student": f"openai:student@{server.url}"})
        assert not told.recalled and len(server.asked("student")) == 12
