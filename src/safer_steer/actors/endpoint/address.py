"""Where a server is and what opens it: base URLs and the key from the environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from safer_steer.errors import ConfigError

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable every endpoint's key is read from."""

_HINT = "write it like http://127.0.0.1:8000/v1"


def check_base_url(text: str) -> str:
    """The base URL without a trailing slash; raises `ConfigError` on anything but a plain http(s) address.

    User names, passwords, queries and fragments are refused: addresses stand in logs and reports, secrets may not.

    >>> check_base_url("https://api.example.org/v1/")
    'https://api.example.org/v1'
    """
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ConfigError("the base URL contains a space, control character or backslash", hint=_HINT)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"not a URL: {error}", hint=_HINT) from error
    if "@" in parts.netloc:
        raise ConfigError("the base URL carries a user name or password", hint=f"put the key into {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"'{text}' is not an http(s) address", hint=_HINT)
    if parts.query or parts.fragment:
        raise ConfigError(f"'{text}' carries a query or fragment", hint=_HINT)
    return text.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Whether the address is this machine's own, where no key is needed.

    >>> [is_loopback(url) for url in ("http://127.0.0.1:8000/v1", "http://localhost/v1", "https://example.org/v1")]
    [True, True, False]
    """
    host = _parts(base_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(base_url: str, environ: Mapping[str, str]) -> str | None:
    """The key for `base_url`, or `None` on loopback without one; raises `ConfigError` when it is missing or malformed.

    The key itself never stands in an error.
    """
    key = environ.get(KEY_VARIABLE, "").strip()
    if not key:
        if is_loopback(base_url):
            return None
        raise ConfigError(
            f"the environment variable {KEY_VARIABLE} is not set", where=base_url, hint=f"export {KEY_VARIABLE}=…"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(f"{KEY_VARIABLE} holds characters a key cannot have", where=base_url, hint="export it again")
    return key


def _parts(base_url: str) -> SplitResult:
    return urlsplit(base_url)
