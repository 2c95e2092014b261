"""Verification as numbered steps: what each claims, whether it holds, and its detail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.runtime.errors import CounterfoilError


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a verification."""

    number: int
    title: str
    holds: bool
    detail: str | None = None
    code: str | None = None
    """The error code's name, if the step does not hold."""


class Verification:
    """Runs named checks in order, after those that were `done` before; after the first that fails, nothing more is claimed."""

    def __init__(self, done: Sequence[Step] = ()) -> None:
        self.steps: list[Step] = list(done)

    @property
    def holds(self) -> bool:
        """Whether there are steps and every one of them holds."""
        return bool(self.steps) and all(step.holds for step in self.steps)

    def step(self, title: str, check: Callable[[], Any]) -> Any:
        """Run one check and record it; return its result, or None if it or an earlier one failed.
        A check returns its detail as text, or (result, text).
        """
        if self.steps and not self.holds:
            return None
        number = len(self.steps) + 1
        try:
            result = check()
        except CounterfoilError as error:
            self.steps.append(Step(number, title, False, str(error), error.code.name))
            return None
        match result:
            case (value, str(detail)):
                self.steps.append(Step(number, title, holds=True, detail=detail))
                return value
            case str(detail):
                self.steps.append(Step(number, title, holds=True, detail=detail))
            case _:
                self.steps.append(Step(number, title, holds=True))
        return result


def as_text(steps: Sequence[Step]) -> str:
    """Return the steps for people, and `verified` or `NOT verified` as the last line."""
    shown = [
        f"{'✓' if step.holds else '✗'} ({step.number}) {step.title}"
        + (f"\n      {step.detail}" if step.detail else "")
        for step in steps
    ]
    holds = bool(steps) and all(step.holds for step in steps)
    return "\n".join([*shown, "verified" if holds else "NOT verified"])
