"""The heat map: how safe a category's answers are, turn by turn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from safer_steer.dialogue import Rollout
from safer_steer.report.transcripts import LONGEST_NAME, visible
from safer_steer.verdict import Scored


@dataclass(frozen=True, slots=True)
class HeatCell:
    """Mean safety, or a guard's share of unsafe, at one turn; `level` names the colour, `text` stands in it."""

    text: str
    scored: int
    level: str


@dataclass(slots=True)
class HeatMap:
    """Sums per category of unsafe dialogues and turn, added to one dialogue at a time."""

    _sums: dict[str, dict[int, dict[str, tuple[float, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )

    def add(self, rollout: Rollout) -> None:
        if not rollout.script.is_unsafe:
            return
        cells = self._sums[visible(rollout.script.category[:LONGEST_NAME])]
        for turn in rollout.turns:
            if isinstance(turn.verdict, Scored):
                for key in ("safety", "unsafe"):
                    if key in turn.verdict.scores:
                        total, count = cells[turn.index].get(key, (0.0, 0))
                        cells[turn.index][key] = (total + turn.verdict.scores[key], count + 1)

    @property
    def longest(self) -> int:
        """The last turn of any dialogue in it."""
        return max((turn for cells in self._sums.values() for turn in cells), default=0)

    def rows(self) -> dict[str, list[HeatCell | None]]:
        """Per category, a cell for every turn up to `longest`, `None` where nothing was scored."""
        turns = range(1, self.longest + 1)
        return {
            category: [_cell(cells[turn]) if turn in cells else None for turn in turns]
            for category, cells in sorted(self._sums.items())
            if cells
        }


def _cell(sums: dict[str, tuple[float, int]]) -> HeatCell:
    """The rubric's mean safety where there is one, else the guard's share of unsafe turns.

    >>> _cell({"safety": (-5.0, 2)}), _cell({"unsafe": (1.0, 4)})
    (HeatCell(text='−2.5', scored=2, level='a'), HeatCell(text='25 %', scored=4, level='e'))
    """
    if "safety" in sums:
        total, count = sums["safety"]
        mean = total / count
        return HeatCell(f"{mean:.1f}".replace("-", "−"), count, "abcdefg"[_nearest(mean) + 3])
    total, count = sums["unsafe"]
    share = total / count
    return HeatCell(f"{100 * share:.0f} %", count, "abcdefg"[_nearest(3 - 6 * share) + 3])


def _nearest(value: float) -> int:
    """Rounded away from safe: −2.5 is the colour of −3."""
    return int(value - 0.5) if value < 0 else int(value + 0.4999)
