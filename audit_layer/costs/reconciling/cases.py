"""What becomes of an invoice's variance: states, tolerance, and who may decide. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from audit_layer.costs.contracts.terms import Tolerance
from shared.runtime.errors import Code, CounterfoilError


class State(StrEnum):
    """What became of a variance."""

    MATCHED = "matched"
    """There is none."""
    WITHIN_TOLERANCE = "within-tolerance"
    OPEN = "open"
    """Somebody has to look at it."""
    DISPUTED = "disputed"
    CREDITED = "credited"
    """A credit note settled it."""
    WRITE_OFF_ASKED = "write-off-asked"
    WRITTEN_OFF = "written-off"


MOVES: Final = {
    State.MATCHED: frozenset[State](),
    State.WITHIN_TOLERANCE: frozenset({State.DISPUTED}),
    State.OPEN: frozenset({State.DISPUTED, State.CREDITED, State.WRITE_OFF_ASKED}),
    State.DISPUTED: frozenset({State.OPEN, State.CREDITED, State.WRITE_OFF_ASKED}),
    State.CREDITED: frozenset({State.DISPUTED}),
    State.WRITE_OFF_ASKED: frozenset({State.DISPUTED, State.WRITTEN_OFF}),
    State.WRITTEN_OFF: frozenset[State](),
}
"""From each state, those into which a person may put a case."""
SETTLED: Final = frozenset({State.MATCHED, State.CREDITED, State.WRITTEN_OFF})


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a case."""

    state: State
    by: str
    at: int
    note: str
    amount: Fraction
    """The variance that it was about."""


def first_state(
    gap: Fraction, proven: Fraction, tolerance: Tolerance, tolerated: Sequence[Fraction]
) -> State:
    """Return the state of a new variance.

    `tolerated` are those of the same parties that were within tolerance since one of them was last settled: many small
    overbillings in one direction are one large one.
    """
    if not gap:
        return State.MATCHED
    share = abs(proven) * Fraction(tolerance.percent) / 100
    if abs(gap) > max(Fraction(tolerance.absolute), share):
        return State.OPEN
    same_way = [other for other in tolerated if (other > 0) == (gap > 0)]
    if abs(sum(same_way, gap)) > Fraction(tolerance.cumulative):
        return State.OPEN
    return State.WITHIN_TOLERANCE


def check_move(history: Sequence[Event], to: State, by: str) -> None:
    """Check that a person may put a case into a state.

    Errors: CONFLICT for a step that does not exist, FORBIDDEN where a write-off needs a second person.
    """
    present = history[-1]
    if to not in MOVES[present.state]:
        able = ", ".join(sorted(MOVES[present.state])) or "nothing else"
        raise CounterfoilError(
            Code.CONFLICT,
            f"the case is {present.state} and cannot become {to}",
            remedy=f"From {present.state} it can become {able}.",
        )
    if to is State.WRITTEN_OFF and by == present.by:
        raise CounterfoilError(
            Code.FORBIDDEN,
            f"{by} asked for the write-off and cannot approve it",
            remedy="Have a second person approve it, with a token of their own.",
        )
