"""What a judge found: outcome, reason, and every check that was made, in a form that can be shown (protocol §6.3.1).

A judgement says nothing of what a request says: its checks carry places, counts and hashes of sealed bytes, never tokens,
text or hashes of states. Whoever has the request looks the place up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.codec.fields import Reader
from shared.runtime.errors import CounterfoilError
from shared.statements.verdicts import Outcome, Reason

MAX_CHECKS: Final = 64
MAX_NAME: Final = 32
MAX_TEXT: Final = 4096
MAX_PLACES: Final = 8
Fact = int | str


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a check did not hold: what was expected, what was found, and where, as far as each can be said."""

    expected: Fact | None = None
    found: Fact | None = None
    where: Mapping[str, int] = field(default_factory=dict)
    """Places and counts by name: `prompt_block`, `output_block`, `prompt_position`, `output_position` and `frame` count
    from 0; `wrong` is how many positions differ."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the protocol's step, its name, the reason that it gives, and the difference if it did not hold."""

    step: int
    name: str
    reason: Reason
    difference: Difference | None = None

    @property
    def held(self) -> bool:
        """Whether what was found is what was expected."""
        return self.difference is None

    def to_value(self) -> dict[str, Value]:
        """Return the CBOR map."""
        value: dict[str, Value] = {
            "step": self.step,
            "name": self.name,
            "reason": self.reason.value,
            "held": self.held,
        }
        if self.difference is not None:
            given = {"expected": self.difference.expected, "found": self.difference.found}
            value |= {name: fact for name, fact in given.items() if fact is not None}
            if self.difference.where:
                value["where"] = dict(self.difference.where)
        return value

    @classmethod
    def read(cls, read: Reader) -> Self:
        """Read the map; MALFORMED for anything else."""
        step, name = read.int("step"), read.text("name", MAX_NAME)
        reason, difference = read.choice("reason", Reason), None
        if not read.bool("held"):
            difference = Difference(
                _fact(read, "expected"),
                _fact(read, "found"),
                read.map_of("where", str, int, max_items=MAX_PLACES) if read.has("where") else {},
            )
        read.done()
        return cls(step, name, reason, difference)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Reason code, the checks that led to it, and facts about the request's size."""

    reason: Reason
    facts: Mapping[str, Fact] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The outcome that the reason implies."""
        return self.reason.outcome

    @property
    def decisive(self) -> Check | None:
        """The check that gave the reason; None if none did (a PASS, or a case that could not be opened)."""
        return next((c for c in self.checks if not c.held and c.reason is self.reason), None)

    @property
    def digest(self) -> bytes:
        """The SHA-256 that a verdict carries as `evidence`."""
        return sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Encode for the pipe and for keeping."""
        return cbor.encode(
            {
                "v": 1,
                "outcome": self.outcome.value,
                "reason": self.reason.value,
                "checks": [check.to_value() for check in self.checks],
                "facts": dict(self.facts),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` wrote; MALFORMED for anything else, UNSUPPORTED for another version."""
        read = Reader(cbor.decode(data), "judgement")
        read.version()
        reason = read.choice("reason", Reason)
        if read.choice("outcome", Outcome) is not reason.outcome:
            read.refuse("outcome", f"is not that of {reason.value!r}")
        facts = read.reader("facts")
        kept = {
            name: fact
            for name in read.map("facts")
            if isinstance(name, str) and (fact := _fact(facts, name)) is not None
        }
        facts.done()
        checks = [Check.read(item) for item in read.readers("checks", max_items=MAX_CHECKS)]
        read.done()
        return cls(reason, kept, tuple(checks))


def _fact(read: Reader, name: str) -> Fact | None:
    """Read a number or a text, if it is present."""
    if not read.has(name):
        return None
    try:
        return read.int(name)
    except CounterfoilError:
        return read.text(name, MAX_TEXT)
