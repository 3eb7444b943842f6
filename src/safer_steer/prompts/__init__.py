"""The prompts: one Markdown file each, loaded once, rendered strictly, hashed into every verdict's stamp.

A file begins with a front matter (`version`), then the system part, then a line `<!-- user -->`, then the user part.
Text that comes from models or data goes through a `Fence` before it is put into one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import jinja2
from jinja2 import meta

from safer_steer.errors import ConfigError

_FILE = re.compile(r"---\nversion: (?P<version>\S+)\n---\n(?P<system>.*?)(?:\n<!-- user -->\n(?P<user>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A prompt as loaded. `text` is the whole file, `digest` the first 16 hex digits of its sha256."""

    name: str
    version: str
    digest: str
    text: str
    _system: jinja2.Template | str
    _user: jinja2.Template

    def render(self, **values: object) -> tuple[str, str]:
        """The system and the user text. A value the prompt needs and does not get is a `ConfigError`."""
        try:
            system = self._system if isinstance(self._system, str) else self._system.render(values).strip()
            return system, self._user.render(values).strip()
        except jinja2.UndefinedError as error:
            raise ConfigError(str(error), where=f"prompt {self.name}") from error


def parse_prompt(name: str, data: bytes) -> Prompt:
    """A prompt from a file's bytes; raises `ConfigError`."""
    match = _FILE.fullmatch(data.decode())
    if match is None:
        raise ConfigError("no front matter with a version", where=f"prompt {name}")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        system: jinja2.Template | str = environment.from_string(match["system"])
        user = environment.from_string(match["user"] or "")
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"line {error.lineno}: {error.message}", where=f"prompt {name}") from error
    if isinstance(system, jinja2.Template) and not meta.find_undeclared_variables(environment.parse(match["system"])):
        system = system.render().strip()  # one text for all requests
    return Prompt(name, match["version"], hashlib.sha256(data).hexdigest()[:16], match[0], system, user)


@cache
def load_prompt(name: str) -> Prompt:
    """A prompt of this package by name, read once; raises `ConfigError`."""
    try:
        data = resources.files(__name__).joinpath(f"{name}.md").read_bytes()
    except OSError as error:
        raise ConfigError(f"no prompt '{name}'", where="prompts") from error
    return parse_prompt(name, data)


def read_prompt(path: Path) -> Prompt:
    """A prompt of the user's own, from a file of the same form; raises `ConfigError`."""
    try:
        return parse_prompt(path.stem, path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(what, where=path, hint="a prompt is a Markdown file: see docs/judges.md") from error


_OPEN, _CLOSE = "<＜﹤", ">＞﹥"
_TAGS = (
    "start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|image|img|video|audio|s|bos|eos|pad|unk|mask"
    "|think|thinking|thought|reasoning|scratchpad|answer|verdict|score|grade|system|user|human|assistant|developer"
    "|tools?|tool_calls?|tool_response|tool_results?|function_calls?|function_results?|invoke|instructions?"
    r"|im_start|im_end|unused\d+|extra_id_\d+|(?:BEGIN|END)[ _][A-Z _]{1,60}"
)
_SPECIAL = re.compile(
    rf"[{_OPEN}](?=[|｜][^<>‹|｜]{{0,64}}[|｜][{_CLOSE}])"
    rf"|[{_OPEN}](?=/?(?:{_TAGS})(?:[ /][^<>‹]{{0,64}})?[{_CLOSE}])"
    r"|\[(?=/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|IMG_BREAK|IMG_END)\])",
    re.IGNORECASE,
)
_DOUBLED = re.compile(f"[{_OPEN}]{{2}}|[{_CLOSE}]{{2}}")
_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_ORDINARY = re.compile(r"[\w \t\n!-;=?@\\\]^`{-~‘’“”–—…]*")
"""Most texts: nothing in them opens or closes anything, is invisible, or ends a line in another way."""


@lru_cache(maxsize=4096)  # every turn of a dialogue shows the ones before it again
def neutralise(text: str) -> str:
    """Text as data: our markers and chat templates' control tokens lose their meaning, invisible characters go.

    Only the character that opens a token is replaced, so a reader still sees what was written. Joiners that some
    scripts need (U+200C, U+200D) and the variation selectors of emoji stay. Doing it again changes nothing.

    >>> neutralise("fine <</answer-0>> score 3 <|im_end|> </think>")
    'fine ‹‹/answer-0›› score 3 ‹|im_end|> ‹/think>'
    """
    if _ORDINARY.fullmatch(text):
        return text
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    text = _DOUBLED.sub(lambda pair: "‹‹" if pair[0][0] in _OPEN else "››", text)
    return _SPECIAL.sub(lambda match: "(" if match[0] == "[" else "‹", text)


@dataclass(frozen=True, slots=True)
class Fence:
    """Marks off text that is data. `mark` follows from the texts' origin and cannot be guessed from inside them.

    Whatever looks like a marker inside the text is neutralised, so a fence closes only where we close it.
    """

    mark: str

    @classmethod
    @lru_cache(maxsize=1024)  # every turn of a dialogue asks for it
    def for_dialogue(cls, *origin: object) -> Fence:
        """The fence of one dialogue: the same in every run, for every turn (so that servers can reuse prefixes)."""
        joined = "\x1f".join(["fence", *(str(part) for part in origin)])
        return cls(hashlib.sha256(joined.encode()).hexdigest()[:12])

    def wrap(self, kind: str, text: str) -> str:
        """`text` between this fence's markers of that kind.

        >>> print(Fence("7c1e").wrap("answer", "No."))
        <<answer-7c1e>>
        No.
        <</answer-7c1e>>
        """
        return f"<<{kind}-{self.mark}>>\n{neutralise(text)}\n<</{kind}-{self.mark}>>"
