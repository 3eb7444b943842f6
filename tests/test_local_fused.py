"""The fused pass against transformers' own, and the draws against a plain cumulative sum."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.local import LocalModel, fused, linear, pack_for_reading, use_onednn
from safer_steer.actors.local.cache import SlotCache
from safer_steer.actors.local.fused import FusedWeights, decoder_of, weights_of
from safer_steer.actors.local.packed import PackedWeights, Pass
from safer_steer.actors.local.sampling import BLOCK, inverted
from safer_steer.image_store import ImageStore
from tiny_vlm import IMAGE, tiny_processor, tiny_student

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's


@pytest.fixture(autouse=True)
def every_layer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(1)
    settings = {"vocab_size": 50, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3, "head_dim": 8,
                "num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.2} | changes  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def adapted(model: Any, rank: int = 4) -> Any:
    wrapped = get_peft_model(model, LoraConfig(r=rank, target_modules=["q_proj", "up_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return wrapped.eval()


def biased(model: LlamaForCausalLM) -> LlamaForCausalLM:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
    return model


def passes(weights: PackedWeights, layers: int, image: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Logits of three passes over rows of uneven length: contexts, then two tokens each, then one row alone."""
    cache = SlotCache(layers)
    cache.reserve(2, 40)
    weights.refresh()
    found, starts = [], [0, 0]
    first = [5, 6, 7, 8, 9, 10, 11] if image is None else [5, *[IMAGE] * 16, 6, 7]
    contexts = [[first, [12, 13, 14]], [[20, 21], [22]], [[30]]]
    with torch.inference_mode(), weights.in_use():
        for rows in contexts:
            width = max(map(len, rows))
            pads = torch.tensor([width - len(row) for row in rows])[:, None]
            columns = torch.arange(width)[None] - pads + torch.tensor(starts[: len(rows)])[:, None]
            padding = torch.arange(width)[None] < pads
            span = int(columns.max()) + 1
            cache.aim(0, columns.masked_fill(padding, -1), span)
            seen = columns.masked_fill(padding, 0)
            asked = Pass(
                ids=torch.tensor([[2] * (width - len(row)) + row for row in rows]),
                visible=torch.arange(span) <= seen[..., None],
                positions=seen,
                images={} if image is None or len(found) else {"pixel_values": image},
                cache=cache,
            )
            found.append(weights.run(asked))
            starts = [start + len(row) for start, row in zip(starts, rows, strict=False)]
    return found


MODELS = {
    "plain": llama,
    "biases": lambda: biased(llama(attention_bias=True, mlp_bias=True)),
    "tied head, a key for every head": lambda: llama(tie_word_embeddings=True, num_key_value_heads=6),
    "stretched positions": lambda: llama(
        rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    ),
    "adapters": lambda: adapted(llama()),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_the_fused_pass_gives_transformers_logits_but_for_half_precision(kind: str) -> None:
    model = MODELS[kind]()
    use_onednn(model)
    assert isinstance(weights_of(model, pack=True), FusedWeights)
    ours = passes(weights_of(model, pack=True), 3)
    theirs = passes(PackedWeights(model), 3)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert float((mine - other).norm() / other.norm()) < 3e-3
        assert float((mine - other).norm()) > 0  # it is another computation, not the same one called twice


def test_only_what_has_changed_is_packed_again_and_what_cannot_learn_stays_while_training() -> None:
    model = adapted(llama())
    use_onednn(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and ".layers.2." in name)
    weights = FusedWeights(model, decoder_of(model))
    before = passes(weights, 3)

    def packed() -> list[object]:
        return [piece.packed for piece in (weights._head, *weights._layers)]

    first = packed()
    weights.refresh()
    assert all(now is then for now, then in zip(packed(), first, strict=True))
    weights.drop(fixed=False)
    assert not weights.fresh and [one is None for one in packed()] == [False, False, False, True]
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if ".layers.2." in name and "lora_B" in name).normal_(std=0.5)
    after = passes(weights, 3)
    assert all(now is then for now, then in zip(packed()[:3], first[:3], strict=True)) and packed()[3] is not first[3]
    anew = passes(FusedWeights(model, decoder_of(model)), 3)
    assert all(torch.equal(a, b) for a, b in zip(after, anew, strict=True))
    assert not torch.equal(after[0], before[0])
    weights.drop()
    assert packed() == [None] * 4


def test_weights_that_fit_half_precision_lose_nothing() -> None:
    model = llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    use_onednn(model)
    for mine, other in zip(passes(weights_of(model, pack=True), 3), passes(PackedWeights(model), 3), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


def test_pictures_go_through_the_fused_pass() -> None:
    student = tiny_student()
    use_onednn(student)
    image = torch.full((1, 3, 64, 64), 0.9)
    ours, theirs = passes(weights_of(student, pack=True), 3, image), passes(PackedWeights(student), 3, image)
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).norm() / other.norm()) < 3e-3


def test_adapters_that_learn_are_packed_anew(tmp_path: Path) -> None:
    model = adapted(llama())
    use_onednn(model)
    weights = weights_of(model, pack=True)
    before = passes(weights, 3)
    assert weights.fresh
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.add_(0.1)
    assert not weights.fresh
    after, expected = passes(weights, 3), passes(PackedWeights(model), 3)
    assert float((after[0] - expected[0]).norm() / expected[0].norm()) < 3e-3
    assert float((after[0] - before[0]).norm()) > 0.01


def qwen() -> nn.Module:
    settings = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    return Qwen2ForCausalLM(Qwen2Config(**settings)).eval()


@pytest.mark.parametrize("model", [qwen(), llama(hidden_act="gelu"), llama().bfloat16(), llama().double()])
def test_other_models_write_with_transformers(model: nn.Module) -> None:
    use_onednn(model)
    assert decoder_of(model) is None
    assert type(weights_of(model, pack=True)) is PackedWeights


def test_without_packing_or_a_build_that_can_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_student()
    use_onednn(student)
    assert type(weights_of(student, pack=False)) is PackedWeights

    def refuse(*args: object) -> None:
        raise RuntimeError("this build has no such product")

    monkeypatch.setattr(fused, "_PACK", refuse)
    fused.available.cache_clear()
    assert type(weights_of(student, pack=True)) is PackedWeights
    fused.available.cache_clear()


def test_a_dialogue_with_a_picture_is_written_the_same(tmp_path: Path) -> None:
    """Over turns, greedily: with and without the fused pass, on weights that fit half precision."""
    images, data = ImageStore(tmp_path), io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(data, "PNG")
    picture = images.put(data.getvalue())
    student = tiny_student()
    with torch.no_grad():
        for parameter in student.language_model.parameters():
            parameter.copy_(parameter.half().float())

    async def answers(pack: bool) -> list[tuple[int, ...]]:
        local = LocalModel(student, tiny_processor(), name="tiny", images=images, pack=pack)
        messages, written = [Message(role=Role.USER, text="What is this?", images=(picture,))], []
        for question in ("And why?", "Go on, please.", ""):
            done = await local.complete(messages, Sampling(max_tokens=10))
            assert done.trace is not None
            written.append(done.trace.response)
            messages.append(Message(role=Role.ASSISTANT, text=done.text, trace=done.trace))
            messages.append(Message(role=Role.USER, text=question))
        await local.aclose()
        return written

    assert asyncio.run(answers(True)) == asyncio.run(answers(False))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3 * BLOCK),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 0.5, 0.99]),
)
def test_a_draw_is_the_first_token_beyond_the_mark(width: int, seed: int, u: float, empty: float) -> None:
    rng = np.random.default_rng(seed)
    mass = rng.random(width).astype(np.float32) * (rng.random(width) >= empty)
    mass[rng.integers(width)] = 0.5
    token = int(inverted(torch.from_numpy(mass)[None], torch.tensor([u], dtype=torch.float64))[0])
    cumulative = mass.astype(np.float64).cumsum()
    slack = 1e-6 * cumulative[-1]  # blocks are added up in single precision
    assert mass[token] > 0
    assert cumulative[token] >= u * cumulative[-1] - slack
    assert cumulative[token] - mass[token] <= u * cumulative[-1] + slack


def test_the_last_mark_before_one_draws_a_token_that_has_mass() -> None:
    mass = torch.zeros(1, 2 * BLOCK)
    mass[0, 3] = 1.0
    assert inverted(mass, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [3]


def test_a_model_that_only_reads_is_packed_for_good() -> None:
    model, ids = biased(llama(attention_bias=True)), torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        before = model(ids).logits
        assert pack_for_reading(model, 64) == 22  # three layers of seven, and the head
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
    assert not [name for name, _ in model.named_parameters() if name.endswith("proj.weight")]
    assert pack_for_reading(model, 64) == 0
