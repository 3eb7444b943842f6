"""The local engine against plain forward passes of the same model."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn

from safer_steer.actors.chat import ChatModel, Completion, Message, Role, Sampling
from safer_steer.actors.local import LocalModel, linear, log_policy
from safer_steer.actors.local.decode import Engine
from safer_steer.dialogue import FinishReason, ImageRef
from safer_steer.errors import ContextOverflow, WeightsError
from safer_steer.image_store import ImageStore
from tiny_vlm import tiny_processor, tiny_student

GREEDY = Sampling(max_tokens=12)
WARM = Sampling(temperature=1.0, max_tokens=12, seed=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("images"))


def picture(store: ImageStore, color: str) -> ImageRef:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(data, "PNG")
    return store.put(data.getvalue())


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return tiny_student()


@pytest.fixture
def local(student: nn.Module, store: ImageStore) -> Iterator[LocalModel]:
    model = LocalModel(student, tiny_processor(), name="tiny", images=store)
    yield model
    asyncio.run(model.aclose())


def reference(model: LocalModel, ids: tuple[int, ...], images: tuple[ImageRef, ...]) -> torch.Tensor:
    """Log-probabilities (ids, vocabulary) of a fresh forward pass over the whole sequence."""
    tensors = model.tokens.images.tensors(images) if model.tokens.images else {}
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([ids]), **tensors).logits[0]
    return log_policy(logits, 1.0, torch.tensor(model.banned))


def full_greedy(model: LocalModel, ids: tuple[int, ...], images: tuple[ImageRef, ...], count: int) -> list[int]:
    """Greedy decoding that reads everything anew for each token."""
    written: list[int] = []
    while len(written) < count and (not written or written[-1] != model.tokens.end):
        written.append(int(reference(model, ids + tuple(written), images)[-1].argmax()))
    return written


async def dialogue(
    model: LocalModel, users: list[str], images: tuple[ImageRef, ...], sampling: Sampling
) -> list[tuple[Message, Completion]]:
    """Play scripted user turns; returns each user message with the completion to it."""
    messages: list[Message] = []
    played = []
    for number, text in enumerate(users):
        user = Message(role=Role.USER, text=text, images=images if number == 0 else ())
        messages.append(user)
        completion = await model.complete(messages, sampling)
        messages.append(Message(role=Role.ASSISTANT, text=completion.text, trace=completion.trace))
        played.append((user, completion))
    return played


def traces(played: list[tuple[Message, Completion]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(c.trace.context, c.trace.response) for _, c in played if c.trace is not None]


def test_it_is_a_chat_model(local: LocalModel) -> None:
    assert isinstance(local, ChatModel)


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_turns_carried_over_equal_reading_everything_anew(
    local: LocalModel, store: ImageStore, sampling: Sampling
) -> None:
    images = (picture(store, "red"),)
    played = asyncio.run(
        dialogue(local, ["What is this?", "And now?", "Why, exactly? Tell me more."], images, sampling)
    )
    ids: tuple[int, ...] = ()
    for _, completion in played:
        assert completion.trace is not None
        ids += completion.trace.context
        fresh = reference(local, ids + completion.trace.response, images)
        if sampling is GREEDY:
            assert list(completion.trace.response) == full_greedy(local, ids, images, 12)
        for offset, (token, logprob) in enumerate(
            zip(completion.trace.response, completion.trace.logprobs, strict=True)
        ):
            assert logprob == pytest.approx(float(fresh[len(ids) + offset - 1, token]), abs=1e-4)
        ids += completion.trace.response


def test_a_batch_of_uneven_dialogues_equals_one_by_one(local: LocalModel, store: ImageStore) -> None:
    scripts = [
        (["Hi", "Go on"], (picture(store, "blue"),)),
        (["A much longer opening question about a great many things. " * 3, "ok", "more"], ()),
        (["Two images", "x"], (picture(store, "red"), picture(store, "green"))),
        (["Hi", "Go on"], (picture(store, "red"),)),
    ]
    sampling = [Sampling(temperature=1.0, max_tokens=5 + 4 * n, seed=n) for n in range(4)]

    async def together() -> list[list[tuple[Message, Completion]]]:
        plays = [dialogue(local, users, images, s) for (users, images), s in zip(scripts, sampling, strict=True)]
        return await asyncio.gather(*plays)

    joint = [traces(played) for played in asyncio.run(together())]
    local.invalidate()
    alone = [
        traces(asyncio.run(dialogue(local, users, images, s)))
        for (users, images), s in zip(scripts, sampling, strict=True)
    ]
    assert joint == alone
    assert joint[0][0] != joint[3][0]  # the same words with another image


@pytest.mark.parametrize("turns", [1, 2])
def test_a_dialogue_that_goes_on_otherwise_is_read_from_there(
    local: LocalModel, store: ImageStore, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    images, read = (picture(store, "red"),), list[int]()
    played = asyncio.run(dialogue(local, ["What is this?", "And now?", "Why?"], images, GREEDY))[:turns]
    said = [(user, Message(role=Role.ASSISTANT, text=c.text, trace=c.trace)) for user, c in played]
    messages = [*itertools.chain(*said), Message(role=Role.USER, text="But still!")]
    forward = Engine._forward

    def counted(engine: Engine, first: int, news: Sequence[Sequence[int]], *more: Any) -> torch.Tensor:
        read.append(sum(map(len, news)))
        return forward(engine, first, news, *more)

    monkeypatch.setattr(Engine, "_forward", counted)
    for _ in range(2):  # what was read so far stays, whoever goes on from it
        read.clear()
        trace = asyncio.run(local.complete(messages, Sampling(max_tokens=2))).trace
        assert trace is not None and read[0] <= len(trace.context) + 1
    ids = sum((context + response for context, response in traces(played)), ())
    assert list(trace.response) == full_greedy(local, ids + trace.context, images, 2)


def test_samples_of_one_script_share_the_first_context_and_differ(local: LocalModel, store: ImageStore) -> None:
    message = Message(role=Role.USER, text="Tell me something", images=(picture(store, "red"),))

    async def samples() -> list[Completion]:
        settings = [Sampling(temperature=1.0, max_tokens=8, seed=seed) for seed in (1, 2, 1)]
        return await asyncio.gather(*(local.complete([message], sampling) for sampling in settings))

    first, second, again = asyncio.run(samples())
    assert first.trace == again.trace
    assert first.trace != second.trace


def test_a_length_stop_is_closed_in_the_next_context(local: LocalModel) -> None:
    played = asyncio.run(dialogue(local, ["One", "Two"], (), Sampling(max_tokens=1, temperature=1.0, seed=3)))
    assert [completion.finish for _, completion in played] == [FinishReason.LENGTH] * 2
    assert traces(played)[1][0][0] == local.tokens.end


def test_the_end_token_belongs_to_the_response(local: LocalModel) -> None:
    stops = [
        completion
        for seed in range(12)
        for _, completion in asyncio.run(
            dialogue(local, ["One"], (), Sampling(max_tokens=400, temperature=6.0, seed=seed))
        )
        if completion.finish is FinishReason.STOP
    ]
    assert stops
    for completion in stops:
        assert completion.trace is not None
        assert completion.trace.response[-1] == local.tokens.end
        assert local.tokens.end not in completion.trace.response[:-1]


def test_no_control_token_is_ever_written(local: LocalModel) -> None:
    played = asyncio.run(dialogue(local, ["One"], (), Sampling(max_tokens=300, temperature=50.0, seed=1)))
    assert not set(traces(played)[0][1]) & set(local.banned)


def test_overflow_is_raised_before_anything_is_written(local: LocalModel) -> None:
    with pytest.raises(ContextOverflow, match="exceed"):
        asyncio.run(dialogue(local, ["x"], (), Sampling(max_tokens=local.max_context)))


def test_cancelling_drops_the_request_and_the_model_goes_on(local: LocalModel) -> None:
    async def scenario() -> Completion:
        message = [Message(role=Role.USER, text="Hello")]
        task = asyncio.create_task(local.complete(message, Sampling(max_tokens=500, temperature=1.0, seed=1)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await local.complete(message, GREEDY)

    assert asyncio.run(scenario()).trace is not None


def test_an_error_in_the_worker_reaches_everybody_who_waits(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no memory")

    async def scenario() -> None:
        message = [Message(role=Role.USER, text="Hello")]
        with monkeypatch.context() as patch:
            patch.setattr(local.model, "forward", fails)
            results = await asyncio.gather(*(local.complete(message, GREEDY) for _ in range(3)), return_exceptions=True)
            assert [str(result) for result in results] == ["no memory"] * 3
        assert (await local.complete(message, GREEDY)).trace is not None

    asyncio.run(scenario())


def test_changed_weights_are_not_answered_from_memory(store: ImageStore) -> None:
    local = LocalModel(tiny_student(), tiny_processor(), name="tiny", images=store)
    asyncio.run(dialogue(local, ["One"], (), GREEDY))
    with local.exclusive() as model, torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    played = asyncio.run(dialogue(local, ["One"], (), GREEDY))
    context, response = traces(played)[0]
    assert list(response) == full_greedy(local, context, (), 12)
    asyncio.run(local.aclose())


def test_little_room_for_kept_rows_changes_nothing(student: nn.Module, store: ImageStore, local: LocalModel) -> None:
    forgetful = LocalModel(student, tiny_processor(), name="tiny", images=store, cache_bytes=0, max_batch=2)

    async def together(model: LocalModel) -> list[list[tuple[Message, Completion]]]:
        return await asyncio.gather(*(dialogue(model, [f"Hi {n}", "b", "c"], (), WARM) for n in range(5)))

    assert [traces(p) for p in asyncio.run(together(forgetful))] == [traces(p) for p in asyncio.run(together(local))]
    asyncio.run(forgetful.aclose())


def test_the_mode_of_the_model_is_left_as_it_was(local: LocalModel) -> None:
    local.model.train()
    asyncio.run(dialogue(local, ["One"], (), GREEDY))
    asyncio.run(local.aclose())
    assert local.model.training
    local.model.eval()


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no readable config"):
        LocalModel.load(tmp_path / "nothing")


def adapted(student: nn.Module) -> nn.Module:
    """The student with LoRA adapters that matter."""
    wrapped = get_peft_model(student, LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|down_proj)"))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return wrapped


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's
@pytest.mark.parametrize("pack", [True, False])
def test_adapters_count_and_may_change(store: ImageStore, pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)
    local = LocalModel(adapted(tiny_student()), tiny_processor(), name="tiny", images=store, pack=pack)
    before = asyncio.run(dialogue(local, ["One", "Two"], (), GREEDY))
    optimiser = torch.optim.AdamW([p for p in local.model.parameters() if p.requires_grad], lr=0.1, fused=True)
    with local._batcher.busy:  # the worker may still be leaving its last batch; `exclusive` would also drop the copies
        local.model(input_ids=torch.tensor([[1, 9, 8, 7]])).logits.square().mean().backward()
        optimiser.step()
    after = asyncio.run(dialogue(local, ["One", "Two"], (), GREEDY))
    assert traces(before) != traces(after)
    ids: tuple[int, ...] = ()
    for context, response in traces(after):
        ids += context
        assert list(response) == full_greedy(local, ids, (), 12)
        ids += response
    asyncio.run(local.aclose())


def test_packed_layers_are_used_only_while_writing(local: LocalModel) -> None:
    asyncio.run(dialogue(local, ["One"], (), GREEDY))
    asyncio.run(local.aclose())
    assert not [module for module in local.model.modules() if "forward" in vars(module)]
