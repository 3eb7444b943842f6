"""Dialogues as ids: literal layouts, the template's own rendering, control tokens that stay text."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safer_steer.actors.chat import Message, Role
from safer_steer.actors.local import DialogueTokenizer, images
from safer_steer.dialogue import ImageRef, TokenTrace
from safer_steer.errors import ConfigError, ImageError, WeightsError
from safer_steer.image_store import ImageStore
from tiny_vlm import END, IMAGE, tiny_processor, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROCESSOR = tiny_processor()
TOKENS = DialogueTokenizer.of(PROCESSOR)
START = 1
SNIPPETS = ("a", " ", "\n", "<", "|", ">", "<|im_end|>", "<|im_start|>", "<image>", "im_end", "é")
TYPED = st.lists(st.sampled_from(SNIPPETS)).map("".join)


def ids(text: str) -> tuple[int, ...]:
    """Token ids of text with its control tokens."""
    return tuple(TOKENIZER(text, add_special_tokens=False).input_ids)


def user(text: str, *images: ImageRef) -> Message:
    return Message(role=Role.USER, text=text, images=images)


def assistant(text: str, trace: TokenTrace | None = None) -> Message:
    return Message(role=Role.ASSISTANT, text=text, trace=trace)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path)


def put(store: ImageStore, color: str) -> ImageRef:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(data, "PNG")
    return store.put(data.getvalue())


def test_a_prompt_literally() -> None:
    layout = TOKENS.lay_out([user("Hi")])
    assert layout.ids == (START, *ids("user\nHi"), END, *ids("\n"), START, *ids("assistant\n"))
    assert layout.answer_mask == (False,) * len(layout.ids)
    assert layout.answer_spans == ()


def test_a_dialogue_for_training_literally() -> None:
    layout = TOKENS.lay_out([user("a"), assistant("b"), user("c"), assistant("d")])
    first = (START, *ids("user\na"), END, *ids("\n"), START, *ids("assistant\n"))
    second = (*ids("\n"), START, *ids("user\nc"), END, *ids("\n"), START, *ids("assistant\n"))
    assert [part.ids for part in layout.parts] == [first, (*ids("b"), END), second, (*ids("d"), END)]
    start = len(first)
    assert layout.answer_spans == ((start, start + 2), (start + 2 + len(second), start + 4 + len(second)))
    assert sum(layout.answer_mask) == 4
    assert layout.answer_mask[start : start + 2] == (True, True)


def rendered(messages: list[Message], **options: Any) -> tuple[int, ...]:
    """The template's own rendering, tokenised whole."""
    plain = [
        {"role": str(m.role), "content": [{"type": "image"}] * len(m.images) + [{"type": "text", "text": m.text}]}
        for m in messages
    ]
    text = PROCESSOR.apply_chat_template(plain, tokenize=False, **options).replace("<image>", "<image>" * 16)
    return ids(text)


def test_pieces_equal_the_templates_rendering(store: ImageStore) -> None:
    tokens = DialogueTokenizer.of(PROCESSOR, store)
    messages = [
        Message(role=Role.SYSTEM, text="Be kind."),
        user("Look at this", put(store, "red"), put(store, "blue")),
        assistant("I see."),
        user("And this?", put(store, "green")),
    ]
    layout = tokens.lay_out(messages)
    assert layout.ids == rendered(messages, add_generation_prompt=True)
    assert layout.ids.count(IMAGE) == 48
    assert [len(part.images) for part in layout.parts] == [2, 0, 1]
    tensors = tokens.images.tensors(layout.images) if tokens.images else {}
    assert tensors["pixel_values"].shape == (3, 3, 64, 64)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5))
def test_any_texts_lay_out_as_the_template_does(texts: list[str]) -> None:
    messages = [(assistant if n % 2 else user)(text.strip()) for n, text in enumerate(texts)]
    if any(name in text for text in texts for name in ("<|", "<image>")):
        return
    layout = TOKENS.lay_out(messages)
    prompt = len(messages) % 2 == 1
    whole = rendered(messages, add_generation_prompt=prompt)
    assert layout.ids == (whole if prompt else whole[:-1])  # the template ends a finished dialogue with a newline


def test_a_trace_is_taken_literally_and_a_cut_answer_is_closed() -> None:
    cut = TokenTrace(context=(7, 8), response=(9, 9), logprobs=(-1.0, -2.0))
    ended = TokenTrace(context=(7, 8), response=(9, END), logprobs=(-1.0, -2.0))
    after_cut = TOKENS.lay_out([user("ignored"), assistant("ignored", cut), user("x")])
    after_end = TOKENS.lay_out([user("ignored"), assistant("ignored", ended), user("x")])
    rest = (*ids("\n"), START, *ids("user\nx"), END, *ids("\n"), START, *ids("assistant\n"))
    assert after_cut.ids == (7, 8, 9, 9, END, *rest)
    assert after_end.ids == (7, 8, 9, END, *rest)
    assert after_cut.answer_mask[:5] == (False, False, True, True, False)


@given(TYPED)
def test_typed_control_tokens_stay_text(text: str) -> None:
    encoded = TOKENS.encode(text)
    assert not set(encoded) & TOKENS.control
    assert TOKENIZER.decode(encoded) == text.strip()


def test_neutralised_text_literally() -> None:
    assert TOKENS.encode("a<|im_end|>b") == ids("a<") + ids("|im_end|>b")
    assert TOKENS.encode("a<|im_end|>b") != ids("a<|im_end|>b")


def test_decoding_leaves_control_tokens_out() -> None:
    assert TOKENS.decode((*ids("Hello, world"), END)) == "Hello, world"


def test_roles_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="take turns"):
        TOKENS.lay_out([user("a"), user("b")])


def test_an_image_without_a_store_to_read_it_is_one_clear_error(store: ImageStore) -> None:
    with pytest.raises(ConfigError, match="sees no images"):
        TOKENS.lay_out([user("a", put(store, "red"))])


def test_a_lost_image_is_named(store: ImageStore) -> None:
    ref = put(store, "red")
    store.path(ref).unlink()
    with pytest.raises(ImageError, match="No such file"):
        DialogueTokenizer.of(PROCESSOR, store).lay_out([user("a", ref)])


def text_only(template: str) -> DialogueTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return DialogueTokenizer.of(tokenizer)


CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nDefault.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_with_a_default_system_prompt() -> None:
    tokens = text_only(CHATML)
    lead = (START, *ids("system\nDefault."), END, *ids("\n"))
    assert tokens.lay_out([user("a")]).ids[: len(lead)] == lead
    own = tokens.lay_out([Message(role=Role.SYSTEM, text="Mine."), user("a")]).ids
    assert own[: len(ids("system\nMine.")) + 1] == (START, *ids("system\nMine."))


def test_a_template_without_system_prompts_says_so() -> None:
    tokens = text_only(
        CHATML.replace("{% for", "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{% for")
    )
    with pytest.raises(ConfigError, match="no system prompt"):
        tokens.lay_out([Message(role=Role.SYSTEM, text="Mine."), user("a")])


@pytest.mark.parametrize(
    "template", ["{{ messages[-1].content }}", "{% for m in messages %}{{ m.content | upper }}{% endfor %}"]
)
def test_a_template_that_cannot_be_taken_apart_is_refused(template: str) -> None:
    with pytest.raises(WeightsError, match="chat template"):
        text_only(template)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(WeightsError, match="chat template"):
        DialogueTokenizer.of(tiny_tokenizer())


class Interrupted(OrderedDict[str, images.ReadImage]):
    """Lets another thread run between a look-up and what follows it."""

    def __init__(self, other: Callable[[], object]) -> None:
        super().__init__()
        self._other, self.armed = other, False

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        if self.armed:
            self.armed = False
            thread = Thread(target=self._other)
            thread.start()
            thread.join(0.2)
        return found


def test_threads_share_the_images_that_are_kept(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    red, blue = put(store, "red"), put(store, "blue")
    reader = DialogueTokenizer.of(PROCESSOR, store).images
    assert reader is not None
    monkeypatch.setattr(images, "KEPT", 1)
    kept = Interrupted(lambda: reader.read(blue))
    monkeypatch.setattr(reader, "_kept", kept)
    first = reader.read(red)
    kept.armed = True
    assert reader.read(red) is first  # another thread may push it out meanwhile
