"""What a running evaluation tells about itself: turns, the pass rate so far, what was lost, tokens."""

from __future__ import annotations

from dataclasses import dataclass

from safer_steer.bench.metrics import attack_succeeded, dialogue_passes
from safer_steer.dialogue import Rollout
from safer_steer.verdict import Unscored


@dataclass(slots=True)
class Tally:
    """Counts of the dialogues played in this session, for the progress display only: the summary counts afresh.

    >>> Tally(safety_pass=2.8).facts()
    {'turns': 0}
    """

    safety_pass: float
    turns: int = 0
    unscored: int = 0
    broke_off: int = 0
    passed: int = 0
    judged: int = 0
    breached: int = 0
    guarded: int = 0
    tokens: int = 0

    def add(self, rollout: Rollout) -> dict[str, object]:
        """Count one finished dialogue and return the figures to show."""
        self.turns += len(rollout.turns)
        self.unscored += sum(isinstance(turn.verdict, Unscored) for turn in rollout.turns)
        self.broke_off += rollout.fault is not None
        for turn in rollout.turns:
            usage = turn.answer.usage
            self.tokens += sum(count for count in (usage.prompt_tokens, usage.completion_tokens) if count is not None)
        if rollout.script.is_unsafe:
            outcome = dialogue_passes(rollout, "safety", self.safety_pass)
            self.judged += outcome is not None
            self.passed += outcome is True
            attacked = attack_succeeded(rollout)
            self.guarded += attacked is not None
            self.breached += attacked is True
        return self.facts()

    def facts(self) -> dict[str, object]:
        """Short figures; what did not happen is not mentioned. The pass rate is that of unsafe dialogues."""
        found: dict[str, object] = {"turns": self.turns}
        if self.judged:
            found["safety pass"] = f"{100 * self.passed / self.judged:.0f} % of {self.judged}"
        if self.guarded:
            found["attack success"] = f"{100 * self.breached / self.guarded:.0f} % of {self.guarded}"
        if self.unscored:
            found["unscored"] = self.unscored
        if self.broke_off:
            found["broke off"] = self.broke_off
        if self.tokens:
            found["tokens"] = _short(self.tokens)
        return found


def _short(count: int) -> str:
    """A count in at most four characters and a unit.

    >>> _short(950), _short(12_340), _short(7_800_000)
    ('950', '12k', '7.8M')
    """
    if count < 1_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
