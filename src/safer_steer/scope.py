"""Which dialogue a call belongs to and how urgent it is: what `converse` knows and a model behind a server wants to.

Both travel with the task (context variables), so that no seat has to hand them on.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Scope:
    """One dialogue being played or judged. `asked` counts its requests by content.

    So two equal requests of one dialogue (a judge asked twice on purpose) are two draws, not one.
    """

    key: str
    asked: Counter[str] = field(default_factory=Counter)

    def occurrence(self, digest: str) -> int:
        """How often this very request was made in this dialogue before now."""
        before = self.asked[digest]
        self.asked[digest] = before + 1
        return before


SCOPE: ContextVar[Scope | None] = ContextVar("scope", default=None)
"""The dialogue the running task belongs to; `None` outside of dialogues."""

JUDGING = 1
"""The urgency of a verdict nobody waits for: after every answer."""

URGENCY: ContextVar[int] = ContextVar("urgency", default=0)
"""Who gets the next free slot of a server: the smallest first. An answer has minus the number of turns still to
come, so that the dialogue with the longest way to go is never the one that waits."""
