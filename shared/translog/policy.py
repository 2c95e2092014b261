"""A verifier's own rule for calling a checkpoint *witnessed*.

The rule is fail-closed: a policy without a witness, or a threshold of zero, cannot be built. A
log and a witness are each a *name* with one or more keys (an Ed25519 and an ML-DSA-44 key, say).
All keys that the policy lists under a name must have signed for the name to count, and a name
counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import Note, SignatureType, Verifier, parse_vkey
from shared.translog.signed_checkpoint import parse_and_verify, signature_time


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that met a policy, and when (POSIX seconds) each witness that counted saw it."""

    checkpoint: Checkpoint
    note: Note
    times: dict[str, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """Log keys, witness keys, and how many witnesses make a quorum; CONFIGURATION if impossible."""

    logs: tuple[Verifier, ...]
    witnesses: tuple[Verifier, ...]
    threshold: int

    def __post_init__(self) -> None:
        names = {verifier.name for verifier in self.witnesses}
        if not self.logs:
            raise CounterfoilError(Code.CONFIGURATION, "a log policy names no log key")
        if not 1 <= self.threshold <= len(names):
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"a quorum of {self.threshold} cannot be formed from {len(names)} witnesses",
                remedy="Name as many witnesses as the threshold asks for, and ask for one or more.",
            )
        keys = [verifier.public_key for verifier in (*self.logs, *self.witnesses)]
        if len(set(keys)) != len(keys):
            raise CounterfoilError(Code.CONFIGURATION, "a log policy names one public key twice")
        if any(verifier.kind is SignatureType.ED25519 for verifier in self.witnesses):
            raise CounterfoilError(
                Code.CONFIGURATION, "a witness key is of type 0x01, which is no cosignature"
            )

    @classmethod
    def from_vkeys(
        cls, *, logs: Sequence[str], witnesses: Sequence[str], threshold: int
    ) -> "Policy":
        """Build a policy from vkey strings."""
        return cls(
            tuple(parse_vkey(vkey) for vkey in logs),
            tuple(parse_vkey(vkey) for vkey in witnesses),
            threshold,
        )

    def witness_keys(self, name: str) -> tuple[Verifier, ...]:
        """Return the keys listed under a witness's name."""
        return tuple(verifier for verifier in self.witnesses if verifier.name == name)

    @property
    def witness_names(self) -> tuple[str, ...]:
        """The witnesses, in the order in which they are listed."""
        return tuple(dict.fromkeys(verifier.name for verifier in self.witnesses))


def witness_time(checkpoint: Checkpoint, note: Note, keys: Sequence[Verifier]) -> int | None:
    """Return the earliest time at which a witness's keys signed, None unless all of them have.

    A line that claims to be by one of them and is not is BAD_SIGNATURE.
    """
    times = [signature_time(checkpoint, note.signatures, verifier) for verifier in keys]
    known = [time_s for time_s in times if time_s is not None]
    return min(known) if known and len(known) == len(times) else None


def verify_witnessed(data: bytes | str, policy: Policy) -> Witnessed:
    """Check the log's signatures and the quorum of cosignatures.

    Errors: those of `parse_and_verify`, and NOT_WITNESSED when the quorum is missing.
    """
    checkpoint, note = parse_and_verify(data, policy.logs)
    times: dict[str, int] = {}
    for name in policy.witness_names:
        time_s = witness_time(checkpoint, note, policy.witness_keys(name))
        if time_s is not None:
            times[name] = time_s
    if len(times) < policy.threshold:
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"{len(times)} of {policy.threshold} witnesses have signed size {checkpoint.size}",
        )
    return Witnessed(checkpoint, note, times)
