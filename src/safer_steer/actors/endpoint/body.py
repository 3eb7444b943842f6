"""The request body in pieces: the images are already encoded, so only the words are serialised, and joined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from pydantic import BaseModel

from safer_steer.actors.chat import Message, Role, Sampling
from safer_steer.actors.endpoint.dialect import Dialect

_DROPPED = ("title", "default")
_HEADS = {role: b'{"role":"%b","content":' % role.encode() for role in Role}


class Body(aiohttp.Payload):
    """A JSON body that is written piece by piece; `bytes()` gives it whole.

    An image in it is the one that all requests that show it share: it goes to the socket without a copy.
    """

    _autoclose = True

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._pieces, self._size = pieces, sum(map(len, pieces))

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._pieces:
            await writer.write(piece)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self).decode(encoding, errors)


def image_fragment(media_type: str, base64: bytes) -> bytes:
    """One image as an OpenAI content part, ready to be spliced in."""
    return b'{"type":"image_url","image_url":{"url":"data:' + media_type.encode() + b";base64," + base64 + b'"}}'


def request_body(
    model: str,
    messages: Sequence[Message],
    images: Sequence[Sequence[bytes]],
    sampling: Sampling,
    schema: type[BaseModel] | None,
    dialect: Dialect,
) -> Body:
    """The whole body in the server's dialect; `images` are the fragments of each message's images.

    Images stand before the text of their message. Each is a piece of the body, and so are the words between two.
    """
    settings: dict[str, Any] = {"model": model, dialect.max_tokens: sampling.max_tokens}
    if dialect.temperature:
        settings["temperature"] = sampling.temperature
    if dialect.top_p and sampling.top_p < 1.0:
        settings["top_p"] = sampling.top_p
    if dialect.seed and sampling.seed is not None:
        settings["seed"] = sampling.seed
    pieces: list[bytes] = []
    words = [orjson.dumps(settings)[:-1], b',"messages":[']
    for number, (message, fragments) in enumerate(zip(messages, images, strict=True)):
        words += (b"," if number else b"", _HEADS[message.role])
        text = orjson.dumps(message.text)
        if fragments:
            words.append(b"[")
            for fragment in fragments:
                pieces += (b"".join(words), fragment)
                words = [b","]
            text = b'{"type":"text","text":' + text + b"}]"
        words += (text, b"}")
    words.append(b"]")
    if schema is not None and dialect.schema:
        words += (b',"response_format":', response_format(schema))
    words.append(b"}")
    return Body([*pieces, b"".join(words)])


@cache
def response_format(schema: type[BaseModel]) -> bytes:
    """`schema` as a strict `response_format`, serialised once per model class."""
    plain = strict_schema(schema.model_json_schema())
    wrapped = {"type": "json_schema", "json_schema": {"name": schema.__name__, "strict": True, "schema": plain}}
    return orjson.dumps(wrapped)


def strict_schema(node: Any) -> Any:
    """A JSON schema in the strict form servers ask for: closed objects, every property required, no defaults.

    >>> strict_schema({"type": "object", "title": "X", "properties": {"a": {"type": "string", "default": ""}}})
    {'type': 'object', 'properties': {'a': {'type': 'string'}}, 'additionalProperties': False, 'required': ['a']}
    """
    if isinstance(node, list):
        return [strict_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node:
        properties = {name: strict_schema(value) for name, value in node["properties"].items()}
        rest = {k: strict_schema(v) for k, v in node.items() if k not in (*_DROPPED, "properties", "required")}
        return {**rest, "properties": properties, "additionalProperties": False, "required": list(properties)}
    return {key: strict_schema(value) for key, value in node.items() if key not in _DROPPED}
