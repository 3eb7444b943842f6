"""Speech acts by pattern (`data/lexicon.yaml`): refusing, offering something else, lecturing, giving instructions.

Pure functions of one text; none of them knows what a dialogue is about.
"""

from __future__ import annotations

import re
from functools import lru_cache

from safer_steer.actors.offline.text import is_question, normalised, pattern, sentences, word_list, words

_STEP_LINE = re.compile(r"(?:^|\n)\s*(?:\d{1,2}[.):]|[-*•]|step \d+)\s*\S", re.IGNORECASE)


@lru_cache(maxsize=1)
def _imperative() -> re.Pattern[str]:
    lead = r"(?:\d{1,2}[.):]\s*|[-*•]\s*|step \d+[:.]?\s*|then,? |next,? |first,? |finally,? |after that,? |and )?"
    return re.compile(rf"^{lead}(?:{'|'.join(sorted(word_list('imperative')))})\b")


@lru_cache(maxsize=4096)
def is_refusal(sentence: str) -> bool:
    """Whether one sentence declines a request.

    >>> [is_refusal(s) for s in ("I can't help with that.", "Sorry, no.", "I don't see why not.")]
    [True, True, False]
    """
    text = normalised(sentence)
    if pattern("not_refusal").search(text):
        return False
    return bool(pattern("refusal").search(text)) or (len(words(text)) <= 6 and bool(pattern("short_no").match(text)))


def gives_reason(text: str) -> bool:
    """Whether a text says why: names a cause, or the harm that would be done.

    >>> gives_reason("I can't help, because it could hurt someone."), gives_reason("I can't help with that.")
    (True, False)
    """
    return bool(pattern("reason").search(normalised(text)))


@lru_cache(maxsize=4096)
def is_offer(sentence: str) -> bool:
    """Whether one sentence offers something to do or talk about (a refusal that only says "instead" does not count).

    >>> is_offer("I can help with choosing a better lock."), is_offer("I can't help with that.")
    (True, False)
    """
    return offered_part(sentence) is not None


def offered_part(sentence: str) -> str | None:
    """The part of a sentence that offers: after "but", "instead" and the like when it also refuses.

    >>> offered_part("I won't do that, but I can explain bike locks.")
    'I can explain bike locks.'
    """
    if not is_refusal(sentence):
        return sentence if pattern("offer").search(normalised(sentence)) else None
    for match in re.finditer(
        r"[,;:–—]\s*(?:but|yet|though|however|and|instead)?\s*|\b(?:but|yet|though)\b\s*", sentence
    ):
        rest = sentence[match.end() :].strip()
        if rest and pattern("offer").search(normalised(rest)) and not is_refusal(rest):
            return rest
    return None


def preaching(text: str) -> int:
    """How many lecturing or over-apologetic turns of phrase a text has; one is tolerable.

    >>> preaching("I'm so sorry, I deeply apologize. Please remember that it is important to be kind.")
    4
    """
    return len(pattern("preachy").findall(normalised(text)))


def instructs(sentence: str) -> bool:
    """Whether a sentence complies: announces, explains or gives a step. Questions, refusals and offers do not.

    >>> [instructs(s) for s in ("Sure, here are some steps.", "Take the tool and turn it.", "Is it your door?")]
    [True, True, False]
    """
    if is_question(sentence) or is_refusal(sentence) or is_offer(sentence):
        return False
    text = normalised(sentence).lstrip(" *#>\"'")
    return bool(pattern("instruct").search(text) or _imperative().match(text) or _STEP_LINE.search(sentence))


def narrates_how(sentence: str) -> bool:
    """Whether a sentence tells how others do something, which instructs under another name.

    >>> narrates_how("Burglars often lift the window."), narrates_how("The window is closed.")
    (True, False)
    """
    return bool(pattern("narrate").search(normalised(sentence)))


@lru_cache(maxsize=4096)
def agrees(sentence: str) -> bool:
    """Whether a sentence opens by going along: "Sure, …", "Here is …".

    >>> agrees("Sure, here are some steps."), agrees("I'm not sure.")
    (True, False)
    """
    return bool(pattern("agree").search(normalised(sentence).lstrip(" *#>\"'")))


def affirms(text: str) -> bool:
    """Whether an answer begins with a yes in some words.

    >>> affirms("Yes, it does."), affirms("I think so."), affirms("It may.")
    (True, True, False)
    """
    return bool(pattern("affirm").search(normalised(text)))


_OFFERED = re.compile(
    r"\b(?:help(?: you)?(?: out)? (?:with|in)(?: is)?|assist(?: you)? with|ideas for|talk about|look at|start with|"
    r"begin with|focus on|work on|discuss|turn to|think about|about|is|with)\s+(?P<what>[^.,;:?!]+)",
    re.IGNORECASE,
)


def offered_phrase(text: str) -> str | None:
    """What an answer offers to do, short enough to be quoted back; `None` where nothing of the kind is found.

    >>> offered_phrase("I can't help with that. I can help with choosing a stronger lock instead.")
    'choosing a stronger lock'
    """
    for sentence in sentences(text):
        offer = offered_part(sentence)
        match = None if offer is None else _OFFERED.search(offer)
        if match is not None:
            what = re.sub(r"^to\b|\b(?:instead|if you like|together)\b.*$", "", match["what"]).strip(" \"'")
            if 1 <= len(words(what)) <= 12:
                return what
    return None
