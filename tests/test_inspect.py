"""Inspect, the optional extra: its models in our seats, our suites as its tasks, our runs as its logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="the extra safer-steer[inspect] is not installed")

from inspect_ai import eval_async
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    ContentImage,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)

from people import ToldAssistant, ToldJudge, guarded, history, scored, script
from safer_steer.actors.chat import ChatModel, Message, Role, Sampling
from safer_steer.actors.inspect_model import InspectModel
from safer_steer.actors.judge import RubricJudge
from safer_steer.actors.specs import Seating, Spec, SpecKind, parse_spec
from safer_steer.bench.evaluate import Evaluation, Session, run_eval
from safer_steer.config import EvalConfig, Recipe
from safer_steer.converse import assessed
from safer_steer.dialogue import FinishReason, History, ImageRef
from safer_steer.errors import ActorError, ConfigError, ContextOverflow, EndpointError
from safer_steer.image_store import ImageStore
from safer_steer.inspecting.log import export_log
from safer_steer.inspecting.tasks import scorers_for, steer
from safer_steer.progress import Silent
from safer_steer.seats import ScriptUser
from safer_steer.verdict import Scored, Unscored, UnscoredReason, Verdict

pytestmark = [
    pytest.mark.filterwarnings("default"),  # Inspect's own libraries warn
    pytest.mark.anyio,
]
HELLO = [Message(role=Role.USER, text="hello")]
GRADE = json.dumps({"rationale": "firm", "over_refusal": True, "safety": 3, "helpfulness": 2})


def told(output: ModelOutput | str) -> ModelOutput:
    """An output that tells its tokens: Inspect would fetch a tokenizer to count them."""
    made = ModelOutput.from_content("mockllm/model", output) if isinstance(output, str) else output
    made.usage = ModelUsage(input_tokens=7, output_tokens=2, total_tokens=9)
    return made


def mock(*outputs: ModelOutput | str, times: int = 1) -> Model:
    return get_model("mockllm/model", custom_outputs=[told(output) for output in outputs] * times, memoize=False)


def says(*outputs: ModelOutput | str) -> InspectModel:
    return InspectModel("mockllm/model", lambda ref: b"bytes", model=mock(*outputs))


async def test_an_inspect_model_is_a_chat_model() -> None:
    output = ModelOutput.from_content("mockllm/model", "fine", stop_reason="max_tokens")
    found = await says(output).complete(HELLO, Sampling(temperature=0.5, max_tokens=5, seed=3))
    assert (found.text, found.finish) == ("fine", FinishReason.LENGTH)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 2)


async def test_images_go_along_before_the_words() -> None:
    ref = ImageRef(sha256="a" * 64, media_type="image/png", width=1, height=1)
    model = says("fine")
    shown = model._message(Message(role=Role.USER, text="look", images=(ref,)))
    assert isinstance(shown, ChatMessageUser) and isinstance(shown.content[0], ContentImage)
    assert shown.content[0].image == "data:image/png;base64,Ynl0ZXM=" and shown.content[1].text == "look"


async def test_what_goes_wrong_is_an_error_of_ours() -> None:
    with pytest.raises(ContextOverflow):
        await says(ModelOutput.from_content("m", "", stop_reason="model_length")).complete(HELLO, Sampling())
    with pytest.raises(EndpointError):
        await says(ModelOutput(model="m", error="overloaded")).complete(HELLO, Sampling())
    model = says("only one")
    await model.complete(HELLO, Sampling())
    with pytest.raises(EndpointError):
        await model.complete(HELLO, Sampling())  # the mock has no second output


async def test_an_inspect_model_takes_the_judges_seat() -> None:
    verdict = await RubricJudge(says(GRADE)).assess(history("a1"), "a2")
    assert isinstance(verdict, Scored) and verdict.scores == {"safety": 3, "helpfulness": 2}
    assert verdict.over_refusal is True
    missing = await assessed(RubricJudge(says("prose", "prose")), history("a1"), "a2")
    assert isinstance(missing, Unscored) and missing.reason is UnscoredReason.UNPARSEABLE


async def test_inspect_models_are_named_and_seated(tmp_path: Path) -> None:
    text = "inspect:openai/azure/gpt-x"
    assert parse_spec(text) == Spec(kind=SpecKind.INSPECT, model="openai/azure/gpt-x") and str(parse_spec(text)) == text
    async with Seating(Recipe(), ImageStore(tmp_path)) as seats:
        model = seats.model("inspect:mockllm/model", "judge")
        assert isinstance(model, ChatModel) and seats.model("inspect:mockllm/model", "judge") is model
        with pytest.raises(ConfigError, match="no Inspect model"):
            seats.model("inspect:nobody/model")


async def test_a_suite_runs_as_an_inspect_task(tmp_path: Path) -> None:
    refuse = "I can't help with that, but I can explain how to stay safe."
    logs = await eval_async(
        steer(suite="steer-mini", judge="grader", max_dialogues=2),
        model=mock(refuse, times=50),
        model_roles={"grader": mock(GRADE, times=50)},
        log_dir=str(tmp_path),
    )
    log = logs[0]
    assert log.status == "success", log.error
    assert log.samples is not None and len(log.samples) == 2
    for sample in log.samples:
        answers = [message for message in sample.messages if isinstance(message, ChatMessageAssistant)]
        assert [message.text for message in answers] == [refuse] * sample.metadata["turns"]
        assert all(message.metadata and message.metadata["safety"] == 3 for message in answers)
    means = {score.name: score.metrics["mean"].value for score in log.results.scores if score.scored_samples}
    assert means == {"safety_pass": 1, "helpfulness_pass": 0, "mean_safety": 3, "mean_helpfulness": 2}


async def test_a_grader_that_gives_no_verdict_leaves_the_samples_unscored(tmp_path: Path) -> None:
    grader = mock("no idea", times=50)
    logs = await eval_async(
        steer(suite="steer-mini", judge="grader", max_dialogues=1),
        model=mock("fine", times=50), model_roles={"grader": grader}, log_dir=str(tmp_path),
    )  # fmt: skip
    assert logs[0].status == "success"
    assert {score.scored_samples for score in logs[0].results.scores} == {0}


async def test_a_model_that_fails_is_an_error_of_its_sample(tmp_path: Path) -> None:
    nobody, grader = mock("one answer, then nothing"), mock(GRADE, times=50)
    logs = await eval_async(
        steer(suite="steer-mini", judge="grader", max_dialogues=1),
        model=nobody, model_roles={"grader": grader}, log_dir=str(tmp_path),
    )  # fmt: skip
    assert logs[0].status == "error" and logs[0].error is not None
    assert "broke off" in logs[0].error.message


@pytest.mark.parametrize(
    ("judge", "names"),
    [
        ("grader", ["safety_pass", "helpfulness_pass", "mean_safety", "mean_helpfulness"]),
        ("wildguard:w@http://127.0.0.1:1/v1", ["attack_success"]),
        (
            "panel:[scripted, wildguard:w@http://127.0.0.1:1/v1]",
            ["safety_pass", "helpfulness_pass", "mean_safety", "mean_helpfulness", "attack_success"],
        ),
    ],
)
async def test_a_task_scores_what_its_judge_gives(judge: str, names: list[str]) -> None:
    assert [made.__name__ for made in scorers_for(judge)] == names


async def evaluated(folder: Path) -> None:
    """Four dialogues: one good, one bad at turn 2, one partly unscored, one that breaks off."""

    def judge(now: History, text: str) -> Verdict:
        if now.script.id == "s2" and now.index == 2:
            return Unscored(reason=UnscoredReason.UNPARSEABLE, detail="prose")
        return scored(-3 if now.script.id == "s1" and now.index == 2 else 3, 3)

    def say(now: History) -> str:
        if now.script.id == "s3" and now.index == 2:
            raise ActorError("away")
        return f"answer {now.index}"

    scripts = [script("a", "b", id=f"s{i}") for i in range(4)]
    of = Evaluation(ToldAssistant(say), ToldJudge(judge), ScriptUser(), scripts, "told", "static", folder, "my-model")
    await run_eval(of, EvalConfig(), Session(4, Silent()))


async def test_an_evaluation_becomes_a_log_that_inspect_reads(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    await evaluated(folder)
    target = tmp_path / "mine.eval"
    assert export_log(folder, target, None) == 4
    log = read_eval_log(str(target))
    assert (log.status, log.eval.model, log.eval.task) == ("error", "my-model", "safer_steer/told")
    assert log.results is not None and (log.results.total_samples, log.results.completed_samples) == (4, 3)
    passed = next(score for score in log.results.scores if score.name == "safety_pass")
    assert (passed.scored_samples, passed.unscored_samples, passed.metrics["mean"].value) == (2, 2, 0.5)
    samples = {sample.id: sample for sample in log.samples or []}
    assert samples["s1"].messages[3].metadata["safety"] == -3
    assert "first failure at turn 2" in samples["s1"].scores["safety_pass"].explanation
    assert samples["s2"].messages[3].metadata["unscored"] == "unparseable"
    assert samples["s3"].error is not None and "away" in samples["s3"].error.message
    assert log.stats.started_at <= log.stats.completed_at and log.stats.completed_at.endswith("+00:00")
    assert [message.text for message in samples["s3"].messages] == ["a", "answer 1"]


async def test_a_guards_evaluation_has_its_own_score(tmp_path: Path) -> None:
    judge = ToldJudge(lambda now, text: guarded(now.script.id == "s1", "S1"))
    scripts = [script("a", id=f"s{i}") for i in range(4)]
    of = Evaluation(ToldAssistant(lambda h: "x"), judge, ScriptUser(), scripts, "told", "static", tmp_path, "m")
    await run_eval(of, EvalConfig(), Session(4, Silent()))
    export_log(tmp_path, tmp_path / "g.json", None)
    log = read_eval_log(str(tmp_path / "g.json"))
    assert {score.name: score.metrics["mean"].value for score in log.results.scores} == {"attack_success": 0.25}
    assert log.status == "success"


@pytest.mark.slow
async def test_the_commands(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    await evaluated(folder)
    made = subprocess.run(
        [sys.executable, "-m", "safer_steer", "inspect-log", "--out", str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == {"dialogues": 4, "log": str(tmp_path / "mine.eval")}
    listed = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "log", "dump", "--header-only", str(tmp_path / "mine.eval")],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert listed.returncode == 0 and json.loads(listed.stdout)["eval"]["model"] == "my-model"
