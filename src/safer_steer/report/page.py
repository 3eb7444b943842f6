"""From records to one HTML file: templates with autoescape, assets inlined, and a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from safer_steer.report.results import interval, p_value, shown, signed
from safer_steer.report.tables import shown_cell
from safer_steer.report.transcripts import visible

MARK = "<!--the dialogues-->"
"""Where the page's data goes. No escaped text can contain it."""


def render(template: str, carried: Sequence[bytes], **values: Any) -> bytes:
    """The whole page, encoded; `carried` are elements of our own making (see `blocks`)."""
    style, script = asset("report.css") + "\n" + asset("viewer.css"), asset("viewer.js")
    page = environment().get_template(template)
    text = page.render(
        policy=policy(style, script), style=Markup(style), script=Markup(script), mark=Markup(MARK), **values
    )
    head, tail = text.split(MARK)
    return b"".join([head.encode(), *carried, tail.encode()])


def policy(style: str, script: str) -> str:
    """The content security policy: exactly this style sheet, exactly this script, images only from the page itself.

    Beyond that no string may become markup or code at run time (trusted types, where a browser knows them).
    """
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
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
    env.filters.update(
        shown=shown,
        signed=signed,
        words=words,
        seconds=duration,
        p=p_value,
        cell=shown_cell,
        short=short_count,
        place=lambda name, table: table[name],
    )
    env.globals.update(interval=interval)
    return env


def words(name: str) -> str:
    """A name as written in prose.

    >>> words("red_team")
    'red team'
    """
    return name.replace("_", " ")


def short_count(count: int) -> str:
    """A large count in few characters.

    >>> short_count(940), short_count(12_345), short_count(7_654_321)
    ('940', '12.3k', '7.7M')
    """
    if count < 1_000:
        return str(count)
    return f"{count / 1e3:.1f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


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
