"""Does an answer stay with what the picture is known to show? The tutor's faithfulness score."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import yaml

from safer_steer.actors.offline.frames import data_text
from safer_steer.actors.offline.text import content, normalised, sentences, words
from safer_steer.dialogue import History

_CLAIM = re.compile(
    r"\b(?:the|this|your|an?) (?:picture|image|photo|photograph|scene)\b(?! (?:album|book))|"
    r"\b(?:depicts?|visible|background|foreground|shown|seen|here we have|"
    r"i (?:can )?see|you can see|it shows|there (?:is|are)|stands out|main things)\b"
)
_DENIAL = re.compile(
    r"\b(?:no|any) (?:image|picture|photo)\b|\bas a text-based\b|"
    r"\b(?:can't|cannot|can not|unable to|don't|do not) (?:\w+ )?(?:see|view|access|have access to|look at|open) "
    r"(?:\w+ )?(?:image|picture|photo)s?\b"
)


@lru_cache(maxsize=1)
def _lexicon() -> tuple[dict[str, int], frozenset[str]]:
    """The kind of each visible thing by word, and the colour words."""
    data = yaml.safe_load(data_text("nouns.yaml"))
    kinds = {word: number for number, line in enumerate(data["things"]) for word in line.split()}
    return kinds, frozenset(data["colours"])


@dataclass(frozen=True, slots=True)
class Grounding:
    """What an answer says of the picture: claimed things nobody knows of, known facts, things at least of a known
    kind, wrong colours, a denial."""

    invented: tuple[str, ...]
    grounded: int
    kinds_met: int
    odd_colours: tuple[str, ...]
    denies: bool

    @property
    def score(self) -> int:
        """Faithfulness 1 (invents the picture) … 10 (grounded in it); 9 for an answer that claims nothing."""
        if self.denies:
            return 3
        if self.invented:
            return {1: 6, 2: 4, 3: 2}.get(len(self.invented), 1)
        if self.odd_colours:
            return 7
        return 10 if self.grounded else 9


def grounding(history: History, answer: str) -> Grounding:
    """Check what `answer` claims to see against the facts, the slots, the references and what the user said.

    Where nothing is known of the picture, nothing can be called invented.
    """
    kinds, colours = _lexicon()
    known = _known(history)
    named = "" if history.script.slots is None else history.script.slots.subject.lower()
    bare = normalised(answer).replace(named, "it") if named else normalised(answer)
    claims = [sentence for sentence in sentences(bare) if _CLAIM.search(sentence)]
    claimed = [word for sentence in claims for word in words(sentence)]
    facts = [content(fact) for fact in history.script.facts]
    said = content(" ".join(claims))
    fact_kinds = {kinds[word] for fact in history.script.facts for word in words(fact) if word in kinds}
    known_kinds = {kinds[word] for word in known if word in kinds}
    invented: dict[int, str] = {}
    for word in claimed:
        if facts and word in kinds and kinds[word] not in known_kinds:
            invented.setdefault(kinds[word], word)
    known_colours = known & colours
    odd = {word for word in claimed if word in colours and word not in known_colours} if known_colours else set()
    return Grounding(
        invented=tuple(invented.values()),
        grounded=sum(len(fact & said) * 2 >= len(fact) for fact in facts if fact),
        kinds_met=len({kinds[word] for word in claimed if word in kinds} & fact_kinds),
        odd_colours=tuple(sorted(odd)),
        denies=bool(history.images) and _DENIAL.search(normalised(answer)) is not None,
    )


def _known(history: History) -> frozenset[str]:
    """Every word that somebody who knows the picture and the dialogue has used; cached by what it is made of."""
    script = history.script
    slots = () if script.slots is None else tuple(script.slots.model_dump().values())
    told = tuple(text for turn in script.turns for text in (turn.text, turn.reference or "", " ".join(turn.keys)))
    return _vocabulary((*script.facts, *slots, *told, script.question or "", history.user))


@lru_cache(maxsize=2048)
def _vocabulary(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for text in texts for word in words(text))
