"""Model folders that load, and those that are refused with one clear error."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.local import LocalModel
from safer_steer.config import SftConfig
from safer_steer.dialogue import FinishReason
from safer_steer.embedded.build import ensure_student
from safer_steer.errors import WeightsError
from safer_steer.image_store import ImageStore
from safer_steer.train.policy import Policy
from tiny_vlm import END, tiny_processor, tiny_student, tiny_tokenizer

ASK = [Message(role=Role.USER, text="Hello there")]
SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": END,
    "pad_token_id": END,
    "bos_token_id": 1,
}


def answer(model: LocalModel, sampling: Sampling) -> str:
    async def once() -> str:
        completion = await model.complete(ASK, sampling)
        await model.aclose()
        return completion.text

    return asyncio.run(once())


def test_a_trained_students_folder_loads_and_writes_as_before(tmp_path: Path) -> None:
    student, processor = tiny_student(), tiny_processor()
    student.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    images, sampling = ImageStore(tmp_path / "images"), Sampling(max_tokens=10)
    loaded = LocalModel.load(tmp_path, images)
    assert loaded.name == tmp_path.name
    assert answer(loaded, sampling) == answer(LocalModel(student, processor, name="x", images=images), sampling)


def test_a_text_only_model_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tiny_processor().chat_template
    tokenizer.save_pretrained(tmp_path)
    assert answer(LocalModel.load(tmp_path), Sampling(max_tokens=10, temperature=1.0, seed=1))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="no readable config"):
        LocalModel.load(tmp_path)


def test_a_folder_that_lost_its_weights_is_refused(tmp_path: Path) -> None:
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        LocalModel.load(tmp_path)


def test_sliding_attention_is_refused(tmp_path: Path) -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tiny_processor().chat_template
    with pytest.raises(WeightsError, match="sliding_attention"):
        LocalModel(Qwen2ForCausalLM(config), tokenizer, name="sliding")


@pytest.mark.slow
def test_the_embedded_student_carries_turns_over(tmp_path: Path) -> None:
    """The real weights: three greedy turns, carried over, equal one forward pass over the whole dialogue."""
    model = LocalModel.load(ensure_student(), ImageStore(tmp_path))
    messages, sequence = [], ()
    for text in ("What colour is the sky?", "Why?", "Say it in one word."):
        messages.append(Message(role=Role.USER, text=text))
        completion = asyncio.run(model.complete(messages, Sampling(max_tokens=24)))
        assert completion.trace is not None
        assert completion.finish in (FinishReason.STOP, FinishReason.LENGTH)
        messages.append(Message(role=Role.ASSISTANT, text=completion.text, trace=completion.trace))
        sequence += completion.trace.context + completion.trace.response
    layout = model.tokens.lay_out(messages)
    assert layout.ids == sequence
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([sequence])).logits[0]
    logits[:, list(model.banned)] = -torch.inf
    for start, stop in layout.answer_spans:
        assert logits[start - 1 : stop - 1].argmax(-1).tolist() == list(sequence[start:stop])
    asyncio.run(model.aclose())


def test_logits_that_are_scaled_after_the_head_are_not_trained_as_if_they_were_not(tmp_path: Path) -> None:
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"
    for folder, scaling in ((plain, 1.0), (scaled, 8.0)):
        torch.manual_seed(0)
        GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=scaling)).save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = tiny_processor().chat_template
        tokenizer.save_pretrained(folder)
    assert Policy.load(plain, SftConfig(lora=None)).trainable
    with pytest.raises(WeightsError, match="scales or caps its logits"):
        Policy.load(scaled, SftConfig(lora=None))
    assert answer(LocalModel.load(scaled), Sampling(max_tokens=4, temperature=1.0, seed=1)) is not None
