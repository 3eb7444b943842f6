"""A transformers vision-language model in this process, as a `ChatModel`."""

from safer_steer.actors.local.linear import pack_for_reading, product, use_onednn
from safer_steer.actors.local.model import LocalModel
from safer_steer.actors.local.sampling import log_policy
from safer_steer.actors.local.tokens import DialogueTokenizer, Layout

__all__ = ["DialogueTokenizer", "Layout", "LocalModel", "log_policy", "pack_for_reading", "product", "use_onednn"]
