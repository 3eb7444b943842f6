"""The student as an ordinary transformers model: tower, projector, Llama."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from safer_steer.embedded.configuration import SteerVLMConfig
from safer_steer.embedded.projector import Projector
from safer_steer.embedded.seen import SeenPictures
from safer_steer.embedded.vision import EfficientNetLite


class SteerVLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A small vision-language model.

    `vision_tower` is frozen by construction (it runs without gradients); `projector` and `language_model` train.
    Images are placed at `config.image_token_id`, `config.image_tokens` places per image, in reading order of the
    batch; a count that does not match raises, so that an image cannot vanish.
    """

    config_class = SteerVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    _no_split_modules = ["LlamaDecoderLayer"]  # noqa: RUF012 (transformers reads a list)
    _tied_weights_keys = {  # noqa: RUF012
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"
    }
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def __init__(self, config: SteerVLMConfig) -> None:
        super().__init__(config)
        self.vision_tower = EfficientNetLite(config.vision_width, config.vision_depth)
        self.projector = Projector(
            width=config.text_config.hidden_size, vision_width=config.vision_width, **config.projector
        )
        self.language_model = LlamaForCausalLM(config.text_config)
        self.vision_tower.requires_grad_(False)
        self._pictures = SeenPictures(self._sight)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """(images, image_tokens, width) input embeddings of images (images, 3, side, side).

        The tower runs without gradients; the projector keeps them. Where there are none to keep, a picture that was
        seen before, by whatever model with these weights, is not looked at again.
        """
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.projector.parameters())
        if learns or pixel_values.device.type != "cpu":
            return self._look(pixel_values)
        return self._pictures.features(pixel_values, self._look)

    def _sight(self) -> Iterator[Tensor]:
        """All that an image's features are made of, besides its pixels."""
        for part in (self.vision_tower, self.projector):
            yield from part.parameters()
            yield from part.buffers()
        table: Any = self.get_input_embeddings()
        yield table.weight

    def _look(self, pixel_values: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.vision_tower(pixel_values)
            class_logits = self.vision_tower.classify(seen.final)
        features: Tensor = self.projector(seen, class_logits, self.get_input_embeddings().weight)
        return features

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Input embeddings (B, L, width) with the images in their places.

        Raises ValueError when places and images do not match.
        """
        embeddings: Tensor = self.get_input_embeddings()(input_ids)
        places = input_ids == self.config.image_token_id
        images = 0 if pixel_values is None else len(pixel_values)
        if int(places.sum()) != images * self.config.image_tokens:
            raise ValueError(
                f"{int(places.sum())} image tokens in the prompt, but {images} images need "
                f"{images * self.config.image_tokens} ({self.config.image_tokens} each)"
            )
        if pixel_values is None:
            return embeddings
        features = self.get_image_features(pixel_values).to(embeddings.dtype)
        return embeddings.masked_scatter(places.unsqueeze(-1), features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, kept, vocabulary) and, with `labels` (B, L; -100 is ignored), the mean next-token loss.

        `pixel_values` (images, 3, side, side) belong to the image tokens of `input_ids`; with a cache, pass them
        only with the tokens that they belong to. `logits_to_keep` as in transformers: the last n (0: all), or
        the indices to keep.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values)
        elif pixel_values is not None:
            raise ValueError("pixel_values need input_ids: the image tokens say where the images go")
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the images to the pass that holds their tokens, and to no later one."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        fed = inputs.get("input_ids")
        if pixel_values is not None and fed is not None and bool((fed == self.config.image_token_id).any()):
            inputs["pixel_values"] = pixel_values
        return inputs
