"""Pictures and chats to tensors, with Pillow and numpy only."""

import base64
import binascii
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from safer_steer.embedded.configuration import IMAGE_TOKEN

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for block in message['content'] -%}{{- block['text'] -}}{%- endfor -%}{%- endif -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for block in message['content'] -%}
{%- if block['type'] == 'image' -%}{{- '<image>\\n' -}}{%- else -%}{{- block['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

Picture = Image.Image | str
"""A picture, or a data URL of one, as chat messages carry it. No other address is followed."""
Pictures = Picture | Sequence[Picture] | Sequence[Sequence[Picture]]


def flatten(images: Pictures) -> list[Image.Image]:
    """Pictures of a batch in reading order, however they were nested. Raises ValueError for an unreadable one."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, str):
        return [from_data_url(images)]
    return [picture for group in images for picture in flatten(group)]


def from_data_url(url: str) -> Image.Image:
    """The picture inside `data:image/…;base64,…`; raises ValueError when there is none."""
    head, _, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError(f"not a data URL of a picture: {url[:40]!r}")
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        picture.load()
    except (binascii.Error, OSError) as error:  # Pillow's own error for what is no picture is an OSError
        raise ValueError(f"no readable picture in the data URL: {error}") from error
    return picture


def letterbox(picture: Image.Image, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(side, side, 3): the whole picture, centred on gray; transparency becomes white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB")
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    canvas = Image.new("RGB", (side, side), (127, 127, 127))
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)


class SteerVLMImageProcessor(BaseImageProcessor):
    """Letterbox to a square and normalise as the tower was trained: ``(rgb - 127) / 128``."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers reads a list)

    def __init__(self, side: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def preprocess(self, images: Pictures, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """`pixel_values` (images, 3, side, side), float32."""
        boxes = np.stack([letterbox(picture, self.side) for picture in flatten(images)])
        pixels = (boxes.astype(np.float32).transpose(0, 3, 1, 2) - 127.0) / 128.0
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


class SteerVLMProcessor(ProcessorMixin):
    """The image processor and the tokenizer together; each ``<image>`` in a text becomes `image_tokens` places."""

    def __init__(
        self,
        image_processor: SteerVLMImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        image_tokens: int = 16,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_tokens = image_tokens
        self.image_token = IMAGE_TOKEN
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        template = CHAT_TEMPLATE if chat_template is None else chat_template
        super().__init__(image_processor, tokenizer, chat_template=template, **kwargs)

    def __call__(
        self, images: Pictures | None = None, text: str | Iterable[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """`input_ids`, `attention_mask` and, with images, `pixel_values`, for prompts of one batch.

        Raises ValueError when the texts' ``<image>`` places and the images differ in number.
        """
        if text is None:
            raise ValueError("a prompt is needed: the text says where the images go")
        for unused in ("videos", "audio"):
            kwargs.pop(unused, None)
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = [] if images is None else flatten(images)
        places = sum(prompt.count(IMAGE_TOKEN) for prompt in prompts)
        if places != len(pictures):
            raise ValueError(f"{places} {IMAGE_TOKEN} places in the text, but {len(pictures)} images")
        kwargs = {"add_special_tokens": False, **kwargs}
        expanded = [prompt.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.image_tokens) for prompt in prompts]
        data = dict(self.tokenizer(expanded, **kwargs))
        if pictures:
            data.update(self.image_processor(pictures))
        return BatchFeature(data, tensor_type=kwargs.get("return_tensors"))

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]
