"""What a server's reply means. Pure: bytes in; a completion, a `Fault` worth retrying, or an error out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from safer_steer.actors.chat import Completion
from safer_steer.actors.endpoint.address import KEY_VARIABLE
from safer_steer.dialogue import FinishReason, Usage
from safer_steer.errors import ActorError, ContextOverflow, EndpointError

_FINISH = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.FILTER,
    "safety": FinishReason.FILTER,
}
_OVERFLOW = (
    "context_length_exceeded",
    "context length",
    "context size",
    "context window",
    "maximum model length",
    "too many tokens",
)
_NEVER = ("input is not supported", "not implemented")
"""What some servers say with a 500 though no repetition will change it, as of images to a model that reads text."""
_RETRIED = frozenset({408, 409, 425, 429})
_PERMANENT = frozenset({501, 505, 511, 525, 526})
"""5xx that no repetition changes: not implemented, a version, a login page, a certificate. All others are retried."""
MESSAGE_LIMIT = 300


class Fault(Exception):
    """Something that may well go right the next time. `wait` is what the server asked for, in seconds.

    `cause` is what it is counted under.
    """

    def __init__(self, what: str, wait: float | None = None, *, cause: str) -> None:
        super().__init__(what)
        self.wait, self.cause = wait, cause


@dataclass(frozen=True, slots=True)
class ServerError:
    """The `error` object of a reply, as far as there is one."""

    message: str
    code: str | None
    param: str | None


def read_completion(body: bytes, seconds: float) -> Completion:
    """A 200's body as a completion; raises `Fault` if it is cut off or not a chat completion.

    A refusal in the `refusal` field is text like any other. No content at all is an empty answer, which is a state
    of its own further up.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Fault(f"the reply is not JSON, {len(body)} bytes, maybe cut off", cause="cut off") from error
    try:
        choice = data["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"), message.get("refusal"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Fault("the reply is not a chat completion", cause="no completion") from error
    finish = _FINISH.get(str(choice.get("finish_reason")).lower(), FinishReason.STOP)
    return Completion(text=text, finish=finish, usage=_usage(data.get("usage"), seconds))


def _text(content: Any, refusal: Any) -> str:
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None or content == "":
        content = refusal if isinstance(refusal, str) else ""
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content


def _usage(usage: Any, seconds: float) -> Usage:
    known = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int | None:
        value = known.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    return Usage(prompt_tokens=count("prompt_tokens"), completion_tokens=count("completion_tokens"), seconds=seconds)


def read_error(body: bytes) -> ServerError:
    """The error a body describes, in whichever of the usual shapes."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ServerError(body[:MESSAGE_LIMIT].decode("utf-8", "replace").strip(), None, None)
    found = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(found, dict):
        return ServerError(str(found)[:MESSAGE_LIMIT], None, None)
    message = found.get("message", found.get("detail", ""))
    code, param = found.get("code"), found.get("param")
    return ServerError(
        str(message)[:MESSAGE_LIMIT],
        code if isinstance(code, str) else None,
        param if isinstance(param, str) else None,
    )


def failure(status: int, body: bytes, wait: float | None, *, base_url: str, model: str) -> Fault | ActorError:
    """What a status other than 200 amounts to: a `Fault` to retry, or the error to raise."""
    error = read_error(body)
    said = f": {error.message}" if error.message else ""
    if error.code == "insufficient_quota":
        return EndpointError(f"the account has no quota left{said}", where=base_url, hint="check billing and limits")
    if _is_passing(status) and not (status == 500 and any(sign in error.message.lower() for sign in _NEVER)):
        return Fault(f"HTTP {status}{said}", wait, cause=f"HTTP {status}")
    if status in (401, 403):
        # What the server says here may quote the key.
        what = f"the server refused the key (HTTP {status})"
        return EndpointError(what, where=base_url, hint=f"check the environment variable {KEY_VARIABLE}")
    if status == 404:
        hint = "check the model's name, and that the base URL ends where the API begins (often /v1)"
        return EndpointError(f"no model '{model}' here (HTTP 404){said}", where=base_url, hint=hint)
    if 300 <= status < 400:
        return EndpointError(f"the server redirects (HTTP {status})", where=base_url, hint="use the final address")
    if status in (400, 413, 422) and _overflows(error):
        return ContextOverflow(f"the dialogue no longer fits '{model}'{said}", where=base_url)
    return EndpointError(f"'{model}' refused the request (HTTP {status}){said}", where=base_url)


def _is_passing(status: int) -> bool:
    """Whether the same request may well be answered the next time."""
    return status in _RETRIED or (500 <= status < 600 and status not in _PERMANENT)


def _overflows(error: ServerError) -> bool:
    text = f"{error.code} {error.message}".lower()
    return any(sign in text for sign in _OVERFLOW)
