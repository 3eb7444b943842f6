"""Words, sentences, overlap and repetition: pure functions of text for the offline cast."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from safer_steer.actors.offline.frames import load_frames

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,/:]\d+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


@lru_cache(maxsize=32)
def word_list(name: str) -> frozenset[str]:
    """A word list of `data/lexicon.yaml`."""
    return frozenset(word for line in load_frames("lexicon")[name] for word in line.split())


@lru_cache(maxsize=32)
def pattern(name: str) -> re.Pattern[str]:
    """A group of the lexicon's patterns as one expression."""
    parts = load_frames("lexicon")[name]
    if name == "refusal":
        inserted = {"NOT": "|".join(load_frames("lexicon")["not"]), "ACT": "|".join(sorted(word_list("act")))}
        parts = tuple(re.sub(r"NOT|ACT", lambda match: inserted[match[0]], part) for part in parts)
    return re.compile("|".join(f"(?:{part})" for part in parts))


def normalised(text: str) -> str:
    """Lower case, straight quotes, contractions of "not" spelt one way."""
    return text.lower().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, in order, lower case.

    >>> words("It's 3.5 km, isn't it?")
    ("it's", '3.5', 'km', "isn't", 'it')
    """
    return tuple(_WORD.findall(normalised(text)))


@lru_cache(maxsize=4096)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text, trimmed, without empty ones. A line break ends a sentence.

    >>> sentences("No. Why not?\\nAsk me.")
    ('No.', 'Why not?', 'Ask me.')
    """
    return tuple(part.strip() for part in _SENTENCE_END.split(text.strip()) if part.strip())


def stem(word: str) -> str:
    """A rough stem, so that "locks", "locked" and "locking" meet.

    >>> [stem(word) for word in ("locks", "locking", "locked", "studies", "glass", "7")]
    ['lock', 'lock', 'lock', 'study', 'glass', '7']
    """
    if len(word) > 4 and word.endswith("'s"):
        word = word[:-2]
    for ending, replacement in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


@lru_cache(maxsize=8192)
def content(text: str) -> frozenset[str]:
    """The stems of the words that carry a topic.

    >>> sorted(content("How do the locks on this door work?"))
    ['door', 'lock', 'work']
    """
    skipped = word_list("stopwords")
    return frozenset(stem(word) for word in words(text) if word not in skipped and (len(word) > 1 or word.isdigit()))


def covered(wanted: frozenset[str], text: str) -> float:
    """The share of the `wanted` stems that `text` has; 0 where nothing is wanted.

    >>> covered(content("lock door"), "A door is open.")
    0.5
    """
    return len(wanted & content(text)) / len(wanted) if wanted else 0.0


def similar(a: str, b: str) -> float:
    """Jaccard similarity of two texts' words, 0…1; two texts without words are not similar.

    >>> similar("the red door", "the blue door")
    0.5
    """
    left, right = frozenset(words(a)), frozenset(words(b))
    return len(left & right) / len(left | right) if left | right else 0.0


def repetition(text: str) -> float:
    """The share of word trigrams already seen in the text: 0 for fresh prose, near 1 for a loop.

    >>> repetition("I cannot help. " * 10) > 0.8, repetition("Every word here is said once only.")
    (True, 0.0)
    """
    tokens = words(text)
    grams = [tokens[i : i + 3] for i in range(len(tokens) - 2)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def stutters(sentence: str) -> bool:
    """Whether a sentence says one word of content three times or more; words in capitals, read off a picture, apart.

    >>> stutters("It is a picture of a picture and a picture of words."), stutters("It shows the words HA HA HA.")
    (True, False)
    """
    common = word_list("stopwords")
    said = words(re.sub(r"\b[A-Z]{2,}\b", " ", sentence))
    counts = Counter(word for word in said if word not in common and word.isalpha())
    return max(counts.values(), default=0) >= 3


def repeats_sentence(text: str) -> bool:
    """Whether a sentence of four words or more stands in the text twice."""
    said = [words(sentence) for sentence in sentences(text)]
    longer = [sentence for sentence in said if len(sentence) >= 4]
    return len(set(longer)) < len(longer)


def is_word_salad(text: str) -> bool:
    """Whether the text is not prose: symbols, letter noise, or keywords strung together without grammar.

    >>> is_word_salad("lock door key safe alternative refuse cannot help lock door")
    True
    >>> is_word_salad("I can't help with that, but I can explain how a good lock is chosen.")
    False
    """
    tokens = words(text)
    if not tokens:
        return True
    letters = sum(character.isalnum() or character.isspace() or character in ".,;:!?'\"" for character in text)
    if letters / len(text) < 0.7:
        return True
    odd = sum(len(token) > 20 or (len(token) > 4 and not re.search(r"[aeiouy\d]", token)) for token in tokens)
    if odd / len(tokens) > 0.15:
        return True
    common = word_list("stopwords") - word_list("not_grammar")
    grammar = sum(token in common or "'" in token or token[0].isdigit() for token in tokens)
    return len(tokens) >= 8 and grammar / len(tokens) < 0.18


def is_cut(text: str) -> bool:
    """Whether the text stops in the middle of a sentence.

    >>> is_cut("I can help with"), is_cut("I can help."), is_cut('He said "no."')
    (True, False, False)
    """
    return not re.search(r"[.!?][\"')\]*_]*$", text.strip())


def is_question(sentence: str) -> bool:
    """Whether a sentence asks something: a question mark and at least three words."""
    return sentence.rstrip("\"')* ").endswith("?") and len(words(sentence)) >= 3


def has_phrase(text: str, phrase: str) -> bool:
    """Whether a text has all the words of a phrase in a row, by stem.

    >>> has_phrase("She wears orange space suits.", "space suit"), has_phrase("Space and a suit.", "space suit")
    (True, False)
    """
    wanted = [stem(word) for word in words(phrase)]
    given = [stem(word) for word in words(text)]
    return bool(wanted) and any(given[i : i + len(wanted)] == wanted for i in range(len(given) - len(wanted) + 1))


def has_key(text: str, key: str) -> bool:
    """Whether a text has a key of a right answer: the phrase, or the number however it is written out.

    >>> has_key("It opens at 9:00.", "9"), has_key("It costs 3.50 euros.", "3.5"), has_key("It costs 35.", "3.5")
    (True, True, False)
    """
    if not key.replace(".", "", 1).isdigit():
        return has_phrase(text, key)
    return any(number.removesuffix(":00") == key or _value(number) == _value(key) for number in numbers(text))


def _value(number: str) -> float | None:
    plain = number.replace(",", "")
    return float(plain) if plain.replace(".", "", 1).isdigit() else None


def numbers(text: str) -> frozenset[str]:
    """The numbers written in a text."""
    return frozenset(word for word in words(text) if word[0].isdigit())


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest run of words that both sequences share.

    >>> longest_run(words("how do I open this door"), words("You ask how do I open a door"))
    4
    """
    best = 0
    previous = [0] * (len(b) + 1)
    for word in a:
        row = [0] * (len(b) + 1)
        for j, other in enumerate(b, 1):
            if word == other:
                row[j] = previous[j - 1] + 1
                best = max(best, row[j])
        previous = row
    return best
