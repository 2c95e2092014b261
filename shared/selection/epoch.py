"""An epoch as the log shows it: the open statement and the epoch seal, both signed by the authority and witnessed."""

from dataclasses import dataclass
from typing import TypeVar

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import Payload, SignedStatement, open_as
from shared.statements.epochs import EpochOpen, EpochSeal
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A sealed epoch. It covers the receipts with log index in [seal.first, seal.size)."""

    opened: EpochOpen
    seal: EpochSeal
    seal_entry: bytes
    seal_index: int


def raised_floors(opened: EpochOpen, seal: EpochSeal) -> dict[bytes, int]:
    """Return the floor of each key bundle of an epoch that has another one than `opened.floor`."""
    if opened.strict_floor is None:
        return {}
    return dict.fromkeys(seal.strict or (), opened.strict_floor)


def require(condition: bool, problem: str) -> None:
    """Raise BAD_PROOF unless the condition holds."""
    if not condition:
        raise CounterfoilError(Code.BAD_PROOF, problem)


def open_witnessed(
    cls: type[P], raw: bytes, proof: str, key: bytes | None, *, log: LogPolicy, origin: str
) -> tuple[P, SignedStatement, int]:
    """Parse a statement that must be witnessed in the log `origin`; return it with its log index."""
    value, statement = open_as(cls, raw, key)
    inclusion = verify_tlog_proof(proof, statement.entry, log)
    require(inclusion.checkpoint.origin == origin, f"the {cls.TYPE} is proved in another log")
    return value, statement, inclusion.index


def open_epoch(
    opened: bytes,
    open_proof: str,
    seal: bytes,
    seal_proof: str,
    *,
    log: LogPolicy,
    origin: str,
    authority: bytes,
) -> Epoch:
    """Check that open statement and seal belong together, and enclose the epoch's receipts in the log.
    The open statement, and so the beacon's commitments, comes before the first receipt, the seal after
    the last. Errors: those of a statement and of a tlog-proof; BAD_PROOF if the two disagree.
    """
    first, open_statement, open_index = open_witnessed(
        EpochOpen, opened, open_proof, authority, log=log, origin=origin
    )
    last, seal_statement, seal_index = open_witnessed(
        EpochSeal, seal, seal_proof, authority, log=log, origin=origin
    )
    require(last.open == open_statement.entry, "the seal names another open statement")
    require(last.epoch == first.epoch, "seal and open statement are of different epochs")
    require(
        last.strict is None or first.strict_floor is not None,
        "the seal names strict key bundles, but the open statement has no strict floor",
    )
    require(
        open_index < last.first and last.size <= seal_index,
        "open statement and seal do not enclose the epoch in the log",
    )
    return Epoch(first, last, seal_statement.entry, seal_index)
