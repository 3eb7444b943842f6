"""A single-turn example of a dataset, before it becomes a seed or a one-turn script."""

from __future__ import annotations

from dataclasses import dataclass

from safer_steer.dialogue import ImageRef, Script, ScriptKind, Seed, SeedKind, Split, UserTurn


@dataclass(frozen=True, slots=True)
class Item:
    """`(x, q)` with what the dataset says about it.

    `goal` is what `question` is really after, where the dataset tells the two apart; `strategy` how it goes about it.
    """

    id: str
    question: str
    category: str
    images: tuple[ImageRef, ...]
    kind: SeedKind = SeedKind.HARMFUL
    split: Split | None = None
    reference: str | None = None
    goal: str | None = None
    strategy: str | None = None

    def script(self, suite: str) -> Script:
        """The one-turn script of a single-turn suite."""
        kind = ScriptKind.BENIGN if self.kind is SeedKind.BENIGN else ScriptKind.RED_TEAM
        return Script(
            id=self.id,
            seed_id=self.id,
            kind=kind,
            category=self.category,
            images=self.images,
            turns=(UserTurn(text=self.question, reference=self.reference),),
            split=Split.TEST,
            strategy=self.strategy,
            suite=suite,
            question=self.goal,
        )

    def seed(self, *, source: str, licence: str, split: Split | None) -> Seed:
        """The seed of Stage I; `split` overrules the dataset's own."""
        return Seed(
            id=self.id,
            kind=self.kind,
            category=self.category,
            question=self.question,
            images=self.images,
            split=self.split if split is None else split,
            reference=self.reference,
            source=source,
            licence=licence,
        )
