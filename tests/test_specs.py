"""SPEC strings, and the seats they fill."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import serving
from people import script
from safer_steer.actors.assistant import system_of
from safer_steer.actors.attack_judge import AttackJudge
from safer_steer.actors.blue import LlmBlue
from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.endpoint import KEY_VARIABLE
from safer_steer.actors.generating import Generator
from safer_steer.actors.generator_llm import LlmGenerator
from safer_steer.actors.judge import RubricJudge
from safer_steer.actors.red import LlmRed
from safer_steer.actors.specs import Seating, Spec, SpecKind, kept_models, parse_spec
from safer_steer.actors.tutor import LlmTutor
from safer_steer.config import Recipe, Seats, recipe_from
from safer_steer.dialogue import AnswerState, History
from safer_steer.errors import ConfigError
from safer_steer.evaluating import check_probe, check_seats, evaluation_inputs
from safer_steer.image_store import ImageStore
from safer_steer.prompts import load_prompt
from safer_steer.seats import Assistant, Judge, UserActor
from tiny_training import model_folder

LOCAL = "openai:qwen/vl-32b@http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", Spec(kind=SpecKind.EMBEDDED)),
        ("scripted", Spec(kind=SpecKind.SCRIPTED)),
        ("local:runs/a b/model", Spec(kind=SpecKind.LOCAL, model="runs/a b/model")),
        ("local:C:/x@y", Spec(kind=SpecKind.LOCAL, model="C:/x@y")),
        (LOCAL, Spec(kind=SpecKind.OPENAI, model="qwen/vl-32b", base_url="http://127.0.0.1:8000/v1")),
        ("openai:a@main@https://h/v1/", Spec(kind=SpecKind.OPENAI, model="a@main", base_url="https://h/v1")),
        ("openai:a:7b@http://[::1]:80/v1", Spec(kind=SpecKind.OPENAI, model="a:7b", base_url="http://[::1]:80/v1")),
    ],
)
def test_specs(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected
    assert parse_spec(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Embedded", "embedded ", "embedded:x", "scripted:", "local", "local:", "local: x", "openai:",
        "openai:m", "openai:m@", "openai:@http://h", "openai:m@h/v1", "openai:m@ftp://h", "openai:m@http://",
        "gpt-5", "hf:a/b", "openai:m@http://user:secret@h/v1", "openai:m@http://h/v1?key=secret", "local:a\nb", "openai:m\x00@http://h",
    ],
)  # fmt: skip
def test_anything_else_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


@given(
    st.text(max_size=30)
    | st.tuples(st.sampled_from(["local:", "openai:", "openai:m@"]), st.text(max_size=30)).map("".join)
)
def test_any_text_is_a_spec_that_comes_back_or_a_config_error(text: str) -> None:
    try:
        spec = parse_spec(text)
    except ConfigError:
        return
    assert parse_spec(str(spec)) == spec


def everywhere(spec: str) -> Recipe:
    return Recipe(seats=Seats(**dict.fromkeys(Seats.model_fields, spec)))


def seats_of(seats: Seating, spec: str) -> list[object]:
    return [
        seats.judge(), seats.attack_judge(), seats.reward_judge(), seats.tutor(),
        seats.red(), seats.blue(), seats.generator(), seats.target(),
        seats.assistant(spec, Sampling()),
    ]  # fmt: skip


@pytest.mark.anyio
async def test_one_model_behind_an_endpoint_takes_every_seat(tmp_path: Path) -> None:
    async with Seating(everywhere(LOCAL), ImageStore(tmp_path), environ={}) as seats:
        people = seats_of(seats, LOCAL)
        assert [type(person) for person in people[:7]] == [
            RubricJudge, AttackJudge, LlmTutor, LlmTutor, LlmRed, LlmBlue, LlmGenerator,
        ]  # fmt: skip
        assert [isinstance(person, Judge) for person in people] == [True] * 4 + [False] * 5
        assert isinstance(people[4], UserActor) and isinstance(people[6], Generator)
        assert all(isinstance(person, Assistant) for person in (people[5], people[7], people[8]))
        assert seats.model(LOCAL) is seats.model(LOCAL + "/")
        other = seats.model("openai:other@http://127.0.0.1:8000/v1")
        assert other.inner.inner._endpoint is seats.model(LOCAL, "judge").inner.inner._endpoint


@pytest.mark.anyio
async def test_a_model_in_this_process_may_outlive_its_seating(tmp_path: Path) -> None:
    spec, images = f"local:{model_folder(tmp_path)}", ImageStore(tmp_path / "images")
    async with kept_models() as kept:
        for text in (spec, LOCAL):
            async with Seating(everywhere("scripted"), images, environ={}, kept=kept) as seats:
                seats.model(text)
        assert [str(known) for known in kept] == [spec]
        async with Seating(everywhere("scripted"), images, environ={}, kept=kept) as seats:
            model = seats.model(spec)
            assert [model] == list(kept.values())
        messages = [Message(role=Role.USER, text="hi")]
        assert (await model.complete(messages, Sampling(max_tokens=1))).text is not None
    with pytest.raises(RuntimeError, match="closed"):
        await model.complete(messages, Sampling(max_tokens=1))
    async with Seating(everywhere("scripted"), images, environ={}) as seats:
        assert seats.model(spec) is not model


@pytest.mark.anyio
async def test_what_cannot_be_seated_says_why(tmp_path: Path) -> None:
    async with Seating(everywhere("scripted"), ImageStore(tmp_path), environ={}) as seats:
        with pytest.raises(ConfigError, match="'scripted' is a cast, not a model"):
            seats.model("scripted")
        with pytest.raises(ConfigError, match="no such folder"):
            seats.assistant(f"local:{tmp_path / 'nothing'}", Sampling())
        with pytest.raises(ConfigError, match=KEY_VARIABLE):
            seats.model("openai:gpt@https://api.example.org/v1")


@pytest.mark.anyio
async def test_the_offline_cast_takes_every_seat(tmp_path: Path) -> None:
    async with Seating(everywhere("scripted"), ImageStore(tmp_path), environ={}) as seats:
        people = seats_of(seats, "scripted")
        assert [isinstance(person, Judge) for person in people] == [True] * 4 + [False] * 5
        assert isinstance(people[4], UserActor) and isinstance(people[6], Generator)
        assert all(isinstance(person, Assistant) for person in (people[5], people[7], people[8]))
        assert seats.judge() is people[0]


@pytest.mark.anyio
async def test_the_offline_blue_expert_does_not_pretend_to_think(tmp_path: Path) -> None:
    recipe = recipe_from({"answer_format": "tagged"})
    async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
        with pytest.raises(ConfigError, match="plain answers only"):
            seats.blue()


def with_weights(folder: Path, digit: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(digit.encode())
    return folder


def test_an_evaluation_hangs_on_the_weights_of_everybody_local(tmp_path: Path) -> None:
    guard, tutor = (with_weights(tmp_path / name, "1") for name in ("guard", "tutor"))
    judge = f"panel:[scripted, llama-guard-3:local:{guard}]"
    recipe = recipe_from({"seats": {"judge": judge, "tutor": f"local:{tutor}"}})

    def inputs(protocol: str) -> str:
        return evaluation_inputs(recipe, "scripted", protocol)[0]

    static, adaptive = inputs("static"), inputs("adaptive")
    with_weights(tutor, "23")
    assert (inputs("static"), inputs("adaptive") == adaptive) == (static, False)
    with_weights(guard, "23")
    assert inputs("static") != static


def test_the_probe_needs_a_judge_with_scores() -> None:
    guards = ["wildguard:w@http://127.0.0.1:8000/v1", "panel:[wildguard:w@http://h/v1, llama-guard-4:g@http://h/v1]"]
    for judge in guards:
        recipe = recipe_from({"seats": {"judge": judge}, "grpo": {"probe_every": 5}})
        with pytest.raises(ConfigError, match=r"grpo.probe_every: .*no scores .*probe_every=null"):
            check_probe(recipe)
        check_seats(recipe)
        check_probe(recipe_from({"seats": {"judge": judge}}))
    both = "panel:[scripted, wildguard:w@http://h/v1]"
    check_probe(recipe_from({"seats": {"judge": both}, "grpo": {"probe_every": 5}}))


@pytest.mark.anyio
async def test_the_answers_form_is_asked_for_where_it_is_read(tmp_path: Path) -> None:
    """Models under test are told the form; the target, which never learns it, answers as it likes."""
    with serving() as server:
        spec = f"openai:m@{server.url}"
        recipe = recipe_from({"answer_format": "tagged", "system_prompt": "Be brief.", "seats": {"target": spec}})
        async with Seating(recipe, ImageStore(tmp_path), environ={}) as seats:
            history = History(script=script("hello"), exchanges=(), user="hello", sample=0)
            told = await seats.assistant(spec, Sampling()).answer(history)
            free = await seats.target().answer(history)
    assert (told.state, free.state, free.text) == (AnswerState.FORMAT_FAILURE, AnswerState.OK, "An answer to: hello")
    first, second = (body["messages"][0]["content"] for body in server.bodies)
    assert first.startswith("Be brief.\n\n") and "<thinking>" in first and "<answer>" in first
    assert second == "Be brief."
    assert system_of(recipe_from({"answer_format": "tagged"})) == load_prompt("answer_form").render()[0]
    own = "Write <thinking>…</thinking><answer>…</answer>."
    assert system_of(recipe_from({"answer_format": "tagged", "system_prompt": own})) == own
    assert system_of(recipe_from({})) is None
