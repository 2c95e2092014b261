"""An epoch as its statements in the log describe it: the input of `draw_check`. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import Payload, SignedStatement, open_as, parse_statement
from shared.statements.epochs import Draw, EpochOpen, EpochSeal

P = TypeVar("P", bound=Payload)
AnyOf = EpochOpen | EpochSeal | Draw | BeaconCommitment | BeaconReveal


@dataclass(frozen=True, slots=True)
class Placed(Generic[P]):
    """A statement and its log index, which the caller has verified as far as possible."""

    value: P
    statement: SignedStatement
    index: int

    @property
    def entry(self) -> bytes:
        """The log entry."""
        return self.statement.entry


def place(cls: type[P], raw: bytes, index: int) -> Placed[P]:
    """Return a statement at its index; MALFORMED if it is not of this type. No signature is checked."""
    return Placed(*open_as(cls, raw, None), index)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """A sealed epoch with everything that the log has about it; each list in log order."""

    opened: Placed[EpochOpen]
    seal: Placed[EpochSeal]
    draw: Placed[Draw] | None
    commitments: tuple[Placed[BeaconCommitment], ...] = ()
    reveals: tuple[Placed[BeaconReveal], ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    """Type and index of further openings, seals and draws."""
    previous: EpochSeal | None = None
    """The seal of the last epoch before this one, if known."""

    @property
    def epoch(self) -> int:
        """The epoch's number."""
        return self.seal.value.epoch


@dataclass(slots=True)
class _Pile:
    """What has been found of one epoch."""

    opened: list[Placed[EpochOpen]] = field(default_factory=list)
    seals: list[Placed[EpochSeal]] = field(default_factory=list)
    draws: list[Placed[Draw]] = field(default_factory=list)
    commitments: list[Placed[BeaconCommitment]] = field(default_factory=list)
    reveals: list[Placed[BeaconReveal]] = field(default_factory=list)

    def record(self, previous: EpochSeal | None) -> EpochRecord | None:
        """Return the record, if the epoch is sealed and its opening is known."""
        if not self.seals or not self.opened:
            return None
        seal = self.seals[0]
        opened = next((o for o in self.opened if o.entry == seal.value.open), self.opened[0])
        draw = next((d for d in self.draws if d.value.seal == seal.entry), None)
        draw = draw or (self.draws[0] if self.draws else None)
        chosen = {item.entry for item in (opened, seal, draw) if item is not None}
        met: list[Placed[Any]] = [*self.opened, *self.seals, *self.draws]
        return EpochRecord(
            opened=opened,
            seal=seal,
            draw=draw,
            commitments=tuple(self.commitments),
            reveals=tuple(self.reveals),
            others=tuple(
                (item.statement.type, item.index) for item in met if item.entry not in chosen
            ),
            previous=previous,
        )


Reader = Callable[[bytes, int, dict[int, _Pile]], int]


def _into(name: str, cls: type[AnyOf]) -> Reader:
    def read(raw: bytes, index: int, piles: dict[int, _Pile]) -> int:
        placed = place(cls, raw, index)
        epoch = placed.value.epoch
        getattr(piles.setdefault(epoch, _Pile()), name).append(placed)
        return epoch

    return read


_READERS: Mapping[str, Reader] = {
    EpochOpen.TYPE: _into("opened", EpochOpen),
    EpochSeal.TYPE: _into("seals", EpochSeal),
    Draw.TYPE: _into("draws", Draw),
    BeaconCommitment.TYPE: _into("commitments", BeaconCommitment),
    BeaconReveal.TYPE: _into("reveals", BeaconReveal),
}
TYPES = frozenset(_READERS)
"""The statements that records are made of."""


def epoch_of(raw: bytes) -> int:
    """Return the epoch to which a statement of one of `TYPES` belongs; MALFORMED if it cannot be read."""
    return _READERS[parse_statement(raw).type](raw, 0, {})


def gather(statements: Iterable[tuple[int, bytes]]) -> list[EpochRecord]:
    """Return the sealed epochs in `statements` (index, statement), by number; all statements are of `TYPES`.
    If there are several openings, the one that the first seal names counts; if several draws, the first that names that seal.
    A seal whose opening is not among the statements gives no record. MALFORMED for an invalid statement.
    """
    piles: dict[int, _Pile] = {}
    for index, raw in sorted(statements):
        _READERS[parse_statement(raw).type](raw, index, piles)
    records: list[EpochRecord] = []
    previous: EpochSeal | None = None
    for _, pile in sorted(piles.items()):
        record = pile.record(previous)
        if record is not None:
            records.append(record)
        if pile.seals:
            previous = pile.seals[0].value
    return records
