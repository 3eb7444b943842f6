"""Several servers of one tutor: dialogues are dealt over them, and the next stands in for one that fails."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.actors.specs import Seating
from safer_steer.config import Recipe
from safer_steer.dialogue import History, stable_id
from safer_steer.errors import EndpointError
from safer_steer.image_store import ImageStore
from safer_steer.seats import Judge
from safer_steer.verdict import Verdict


class Tutors:
    """A tutor behind one or more servers. A dialogue keeps its server, whose cache holds its earlier turns."""

    def __init__(self, tutors: Sequence[Judge]) -> None:
        self._tutors = tuple(tutors)
        self.stamp = self._tutors[0].stamp

    async def assess(self, history: History, answer: str) -> Verdict:
        """The verdict of the dialogue's own server, or of the first after it that answers.

        Raises `BadVerdict` as the tutor does (another server would say the same), and the last server's
        `EndpointError` when none answers.
        """
        first = int(stable_id(history.script.id, history.sample), 16) % len(self._tutors)
        order = self._tutors[first:] + self._tutors[:first]
        for tutor in order[:-1]:
            try:
                return await tutor.assess(history, answer)
            except EndpointError:
                continue
        return await order[-1].assess(history, answer)


def seat_tutors(recipe: Recipe, images: ImageStore) -> tuple[Judge, list[Seating]]:
    """The recipe's tutor, and what must be closed after it. Raises `ConfigError` for a SPEC that names nobody."""
    specs = recipe.cluster.tutors or (recipe.seats.tutor,)
    seatings = []
    for spec in specs:
        seats = recipe.seats.model_copy(update={"tutor": spec})
        seatings.append(Seating(recipe.model_copy(update={"seats": seats}), images))
    tutors = [seating.tutor() for seating in seatings]
    return (tutors[0] if len(tutors) == 1 else Tutors(tutors)), seatings
