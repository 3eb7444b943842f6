"""From records to one HTML file: templates with autoescape, assets inlined, and a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from safer_steer.report.results import interval, shown, signed

_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def visible(text: str) -> str:
    """`text` as HTML can carry it: control characters, lone surrogates and non-characters become U+FFFD.

    >>> visible("a\\x00b\\nc")
    'a�b\\nc'
    """
    return _INVISIBLE.sub("\ufffd", text)


def render(template: str, *, extra_style: str = "", **values: Any) -> str:
    """The whole page. `extra_style` is trusted CSS of our own making (the thumbnails)."""
    style = asset("report.css") + "\n" + extra_style
    script = asset("report.js")
    page = environment().get_template(template)
    return page.render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        **values,
    )


def policy(style: str, script: str) -> str:
    """The content security policy: exactly this style sheet, exactly this script, images only from the page itself."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def asset(name: str) -> str:
    return (resources.files("safer_steer.report") / "assets" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with every expression made visible, then escaped; an unknown name is an error."""
    env = Environment(
        loader=PackageLoader("safer_steer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    env.filters.update(shown=shown, signed=signed, words=words, seconds=duration)
    env.globals.update(interval=interval)
    return env


def words(name: str) -> str:
    """A name as written in prose.

    >>> words("red_team")
    'red team'
    """
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(7.26), duration(754), duration(7300)
    ('7.3 s', '12 min 34 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
