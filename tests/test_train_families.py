"""Every family through SFT, rollouts and GRPO: images in any turn or none, the same tokens and positions throughout."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from people import answer
from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.local import LocalModel
from safer_steer.actors.local.images import joined
from safer_steer.dialogue import ImageRef, Rollout, Script, ScriptKind, StopReason, Turn, UserTurn
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records, write_records
from safer_steer.train.batch import tokens_of
from safer_steer.train.loss import token_logprobs
from safer_steer.train.metrics import GrpoStep
from safer_steer.train.schedule import shortened
from safer_steer.train.sft import Example, SftStep, run_sft
from tiny_families import FAMILIES, family, family_folder
from tiny_training import graded, likes_letters, run_grpo, tiny_recipe, tutor

SEEING = [name for name in FAMILIES if name != "text_only"]


def pictures(run: RunFolder) -> list[ImageRef]:
    """Two of different shape: their patches differ in number where a family keeps the shape."""
    found = []
    for color, size in (("orange", (60, 30)), ("navy", (30, 50))):
        data = io.BytesIO()
        Image.new("RGB", size, color).save(data, "PNG")
        found.append(run.images.put(data.getvalue()))
    return found


def scripts(run: RunFolder, sees: bool) -> list[Script]:
    """An image with the first turn and another with the second; one with the last alone; none at all."""
    first, second = pictures(run)

    def script(number: int, opening: tuple[ImageRef, ...], *turns: tuple[ImageRef, ...]) -> Script:
        said = tuple(UserTurn(text=f"ask {number}{t}", images=refs if sees else ()) for t, refs in enumerate(turns))
        kind = ScriptKind.BENIGN if number == 2 else ScriptKind.RED_TEAM
        images = opening if sees else ()
        return Script(id=f"s{number}", seed_id=f"{number}", kind=kind, category="fraud", images=images, turns=said)

    return [script(0, (first,), (), (second, first)), script(1, (), (), (), (second,)), script(2, (), (), ())]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_on_what_it_read_and_wrote(tmp_path: Path, name: str) -> None:
    run, start = RunFolder(tmp_path / "run"), family_folder(name, tmp_path)
    played = scripts(run, name != "text_only")
    kept = [
        Rollout(
            script=script,
            turns=tuple(
                Turn(index=t, user=turn.text, answer=answer("eee e"), verdict=graded(10))
                for t, turn in enumerate(script.turns, 1)
            ),
            stop=StopReason.COMPLETED,
        )
        for script in played
    ]
    write_records(run.root / "bootstrap" / "kept.jsonl", kept)
    recipe = tiny_recipe(
        sft={"batch_size": 3, "max_steps": 4, "learning_rate": 0.005},
        grpo={"seeds_per_step": 3, "steps": 2, "benign_share": 1 / 3, "learning_rate": 0.001},
    )
    run_sft(recipe, run, start, Silent())
    losses = [line.loss for line in read_records(run.root / "sft" / "metrics.jsonl", SftStep)]
    assert losses[-1] < losses[0]
    run_grpo(recipe, run, run.root / "sft" / "model", scripts=played, tutor=tutor(likes_letters), report=Silent())
    steps = list(read_records(run.root / "grpo" / "metrics.jsonl", GrpoStep))
    assert all(step.groups > 0 and step.unscored == 0 for step in steps)
    # What was sampled, turn by turn from carried-over keys and values, is what one pass over the whole computes.
    assert all(step.drift is not None and step.drift < 2e-5 for step in steps), [step.drift for step in steps]
    assert LocalModel.load(run.root / "grpo" / "model").max_context == 2048


@pytest.mark.parametrize("name", SEEING)
def test_what_a_picture_shows_and_where_it_stands_matters(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    model, processor = family(name)
    local = LocalModel(model, processor, name=name, images=run.images)
    one, other = pictures(run)

    def dialogue(*images: tuple[ImageRef, ...]) -> Example:
        messages = []
        for refs in images:
            messages.append(Message(role=Role.USER, text="see", images=refs))
            messages.append(Message(role=Role.ASSISTANT, text="so"))
        layout = local.tokens.lay_out(messages)
        return Example(layout.ids, layout.answer_mask, layout.images)

    def read(*examples: Example) -> list[torch.Tensor]:
        """The answers' log-probabilities, all examples in one padded batch."""
        with torch.no_grad():
            found = token_logprobs(model, tokens_of(examples, local.tokens, torch.device("cpu")))
        return list(found.split([sum(example.mask) for example in examples]))

    first, second, both = dialogue((one,), ()), dialogue((), (one,)), dialogue((one,), (other,))
    together = read(first, second, both, dialogue((), ()), dialogue((other,), ()))
    for example, found in zip((first, second, both), together, strict=False):
        assert torch.allclose(read(example)[0], found, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    if name != "steer_vlm":  # whose projector, untrained, reads one word out of every plain picture
        assert not torch.allclose(together[0], together[4], atol=1e-4)

    async def once(messages: list[Message]) -> str:
        completion = await local.complete(messages, Sampling(max_tokens=3))
        await local.aclose()
        return completion.text

    assert isinstance(asyncio.run(once([Message(role=Role.USER, text="see", images=(one, other))])), str)


@pytest.mark.parametrize("name", SEEING)
def test_an_image_cannot_vanish(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    model, processor = family(name)
    tokens = LocalModel(model, processor, name=name, images=run.images).tokens
    messages = [
        Message(role=Role.USER, text="see", images=tuple(pictures(run))), Message(role=Role.ASSISTANT, text="so")
    ]  # fmt: skip
    layout = tokens.lay_out(messages)
    for images in ((), layout.images[:1], layout.images * 2):
        with pytest.raises(ValueError, match="image places"):
            tokens_of([Example(layout.ids, layout.answer_mask, images)], tokens, torch.device("cpu"))


def test_a_shortened_script_keeps_its_images(tmp_path: Path) -> None:
    one, other = pictures(RunFolder(tmp_path))
    turns = (
        UserTurn(text="a"),
        UserTurn(text="b", images=(one,)),
        UserTurn(text="c"),
        UserTurn(text="d", images=(other,)),
    )
    script = Script(id="s", seed_id="s", kind=ScriptKind.RED_TEAM, category="c", images=(other,), turns=turns)
    cut = shortened(script, 2)
    assert [turn.text for turn in cut.turns] == ["c", "d"]
    assert [cut.images_at(1), cut.images_at(2)] == [(other, one), (other,)]
    assert cut.images_until(2) == (other, one, other)
    assert cut.images_until(0) == ()
    assert "images" not in script.turns[0].model_dump()
    assert Script.from_json(script.to_json()) == script


def test_tiles_of_uneven_size_are_filled_up() -> None:
    wide, small = torch.ones(1, 1, 3, 2, 4), torch.ones(1, 2, 3, 2, 2)
    both = joined([wide, small], tiled=True)
    assert both.shape == (1, 3, 3, 2, 4)
    assert float(both.sum()) == 24 + 24 and not both[0, 1:, :, :, 2:].any()
