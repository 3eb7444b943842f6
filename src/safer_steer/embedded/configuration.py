"""The student's configuration: a Llama text model, an EfficientNet-Lite tower, a soft-word projector."""

from typing import Any, ClassVar

from transformers import LlamaConfig, PretrainedConfig

IMAGE_TOKEN = "<image>"


class SteerVLMConfig(PretrainedConfig):
    """Sizes of the three parts; every size of the projector follows from the shipped weights at build time.

    `image_token_id` marks the places (`image_tokens` of them per image) that the projector fills.
    """

    model_type = "steer_vlm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": LlamaConfig}

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        image_token_id: int = 16,
        image_tokens: int = 16,
        image_side: int = 256,
        vision_width: float = 1.1,
        vision_depth: float = 1.2,
        projector: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text = LlamaConfig()
        else:
            text = LlamaConfig(**text_config) if isinstance(text_config, dict) else text_config
        self.text_config: LlamaConfig = text
        self.image_token_id = image_token_id
        self.image_tokens = image_tokens
        self.image_side = image_side
        self.vision_width = vision_width
        self.vision_depth = vision_depth
        self.projector = {"vocabulary": 8, "lexicon": 8} if projector is None else projector
        kwargs.setdefault("tie_word_embeddings", text.tie_word_embeddings)
        super().__init__(**kwargs)
