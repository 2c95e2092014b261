"""Tenant seals: what the audit authority states about all receipts of one tenant in one period (protocol §5.1).

A tenant's seals are numbered 0, 1, 2, … and each begins where the previous one ended, in time and in the log. So every
receipt is counted by exactly one of them, on time or late, and anybody who holds the receipts can recompute it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, ClassVar, Self

from shared.codec.hashing import labelled_hash
from shared.statements.numbers import Numbers
from shared.statements.rules import Count
from shared.statements.schema import Bytes32, Ms, Name, Record, Statement, Uint

NO_SEAL = bytes(32)
"""`previous` of a tenant's first seal."""
MAX_MISSING = 1024
"""Most runs of missing order numbers in one seal; if there are more, the lowest are merged."""


@dataclass(frozen=True, slots=True)
class Missing(Record):
    """A run of order numbers for which the log has neither a receipt nor a refusal, inclusive."""

    first: Uint
    last: Uint

    def check(self) -> None:
        """Check the order of the ends."""
        self.require(self.first <= self.last, "ends before it begins")


@dataclass(frozen=True, slots=True)
class OrderNumbers(Record):
    """Which of the tenant's order numbers have a receipt or a refusal in this seal or an earlier one."""

    next: Uint
    """One more than the highest number; 0 if there was none."""
    missing: Annotated[tuple[Missing, ...], Count(0, MAX_MISSING)]
    """The numbers below `next` without either: ascending runs that do not touch."""

    def check(self) -> None:
        """Check the order of the runs."""
        try:
            self.numbers()
        except ValueError as error:
            self.require(False, f"is impossible: {error}")

    def numbers(self) -> Numbers:
        """Return them as a value for computation."""
        return Numbers(self.next, tuple((run.first, run.last) for run in self.missing))

    @classmethod
    def of(cls, numbers: Numbers) -> Self:
        """Return a value's wire form, with the lowest runs merged if there are too many."""
        runs = numbers.condensed(MAX_MISSING)
        return cls(next=runs.next, missing=tuple(Missing(*run) for run in runs.missing))


@dataclass(frozen=True, slots=True)
class Counted(Record):
    """A number of statements, and the SHA-256 of their entries, concatenated by index."""

    count: Uint
    entries: Bytes32


@dataclass(frozen=True, slots=True)
class TenantSeal(Statement):
    """All receipts of one tenant that began in [start, end), as the log had them at `size`."""

    TYPE: ClassVar[str] = "tenant-seal"
    NEEDED: ClassVar[frozenset[str]] = frozenset({"disclosures"})
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"refusals"})

    tenant: Name
    number: Uint
    start: Ms
    end: Ms
    at: Ms
    previous: Bytes32
    """Entry of the tenant's seal before this one; 32 zero bytes for its first."""
    size: Uint
    """The log's size at which the seal was taken; never smaller than the previous seal's."""
    root: Bytes32
    """Root of the log at that size."""
    receipts: Uint
    """How many receipts with start <= started < end have a log index below `size`."""
    entries: Bytes32
    """SHA-256 of their entries, concatenated by index."""
    late: Uint
    """How many receipts with started < start have an index from the previous seal's `size` up to this one's."""
    late_entries: Bytes32
    """SHA-256 of their entries, likewise."""
    orders: OrderNumbers
    disclosures: Counted | None = None
    """The statements about disclosures of the tenant's receipts with an index from the previous seal's `size` up to this
    one's (protocol §5.1); absent in seals from before it was defined."""
    refusals: Counted | None = None
    """The refusals that it counts: those with start <= at < end below `size`, and those with at < start from the previous seal's
    `size` up to this one's. Their numbers are among `orders` too. Absent if there are none."""

    @property
    def subject(self) -> str:
        """The tenant."""
        return self.tenant

    def check(self) -> None:
        """Check the period, and that only the first seal has no predecessor."""
        self.require(self.start < self.end <= self.at, "is not made after its period")
        self.require(
            (self.number == 0) == (self.previous == NO_SEAL),
            "has a predecessor exactly when it is not the tenant's first",
        )
        self.require(
            self.refusals is None or self.refusals.count > 0, "counts refusals where there are none"
        )
        self.require(self.receipts + self.late <= self.size, "counts more receipts than entries")


def seal_domain(tenant: str) -> bytes:
    """Return the number domain of a tenant's seals: the log has one seal per number, forever."""
    return labelled_hash("seal-domain", tenant.encode())


def entries_digest(entries: Iterable[bytes]) -> bytes:
    """Return a seal's hash over receipts: their entries in order of log index."""
    digest = sha256()
    for entry in entries:
        digest.update(entry)
    return digest.digest()


def counted(entries: Sequence[bytes]) -> Counted:
    """Count statements, given their entries in order of log index."""
    return Counted(len(entries), entries_digest(entries))


def refusals_of(entries: Sequence[bytes]) -> Counted | None:
    """Return a seal's `refusals`, given their entries in order of log index."""
    return counted(entries) if entries else None


def order_numbers(previous: OrderNumbers | None, seen: Iterable[int]) -> OrderNumbers:
    """Return a seal's `orders`: the previous seal's, plus the numbers of this seal's receipts and refusals."""
    before = Numbers() if previous is None else previous.numbers()
    return OrderNumbers.of(before.with_seen(seen))


def follows(seal: TenantSeal, entry: bytes, following: TenantSeal) -> str | None:
    """Return why `following` is not the seal after the one with this `entry`; None if it is."""
    checks: Sequence[tuple[bool, str]] = (
        (following.tenant == seal.tenant, "belongs to another tenant"),
        (following.number == seal.number + 1, "does not have the next number"),
        (following.previous == entry, "names another predecessor"),
        (following.start == seal.end, "does not begin where it ended"),
        (following.size >= seal.size, "was taken at a smaller size"),
    )
    return next((problem for holds, problem in checks if not holds), None)
