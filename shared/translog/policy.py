"""Log policies: a verifier's own rule for calling a checkpoint *witnessed*.

The rule is fail-closed: a policy without a witness, or with a threshold of zero, cannot be built. A
log is a *name* with one or more keys (an Ed25519 and an ML-DSA-44 key, say), each of which must
have signed. The same holds for a witness, and a name counts once, unless the policy comes from a policy
file (`shared.translog.policy_file`), whose groups define how keys count.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import Note, SignatureType, Verifier, parse_vkey
from shared.translog.signed_checkpoint import parse_and_verify, signature_time


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that satisfied a policy, and when (POSIX seconds) each witness that counted saw it."""

    checkpoint: Checkpoint
    note: Note
    times: dict[str, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Met if `threshold` of its members are: keys that have signed, or groups that are met."""

    threshold: int
    members: "tuple[Verifier | Group, ...]"

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(self.members):
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"a quorum of {self.threshold} cannot be formed from {len(self.members)} witnesses",
                remedy="Name at least as many witnesses as the threshold, and use a threshold of one or more.",
            )

    def leaves(self) -> Iterator[Verifier]:
        """Yield every key in the group, in its order."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.leaves()
            else:
                yield member

    def met_by(self, signed: Collection[Verifier]) -> tuple[Verifier, ...]:
        """Return the keys that count: those of a group that is not met do not, so empty if this one is not."""
        counting = [
            member.met_by(signed)
            if isinstance(member, Group)
            else (member,)
            if member in signed
            else ()
            for member in self.members
        ]
        met = [keys for keys in counting if keys]
        return tuple(key for keys in met for key in keys) if len(met) >= self.threshold else ()


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """Log keys, witness keys, and what makes a quorum; CONFIGURATION if that is impossible."""

    logs: tuple[Verifier, ...]
    witnesses: tuple[Verifier, ...]
    threshold: int
    """How many members of the quorum must be met."""
    members: tuple[Verifier | Group, ...] = ()
    """The quorum's members if a policy file names them; otherwise they are the witnesses' names."""

    def __post_init__(self) -> None:
        if not self.logs:
            raise CounterfoilError(Code.CONFIGURATION, "a log policy names no log key")
        in_quorum = list(self.quorum.leaves())
        if len(set(in_quorum)) != len(in_quorum) or not set(in_quorum) <= set(self.witnesses):
            raise CounterfoilError(
                Code.CONFIGURATION, "a quorum counts a key twice, or one that is not a witness's"
            )
        keys = [verifier.public_key for verifier in (*self.logs, *self.witnesses)]
        if len(set(keys)) != len(keys):
            raise CounterfoilError(Code.CONFIGURATION, "a log policy names one public key twice")
        if any(verifier.kind is SignatureType.ED25519 for verifier in self.witnesses):
            raise CounterfoilError(
                Code.CONFIGURATION, "a witness key is of type 0x01, which is not a cosignature"
            )

    @classmethod
    def from_vkeys(
        cls, *, logs: Sequence[str], witnesses: Sequence[str], threshold: int
    ) -> "LogPolicy":
        """Build a policy from vkey strings."""
        return cls(
            tuple(parse_vkey(vkey) for vkey in logs),
            tuple(parse_vkey(vkey) for vkey in witnesses),
            threshold,
        )

    @property
    def quorum(self) -> Group:
        """The rule over keys."""
        by_name = (self.witness_keys(name) for name in self.witness_names)
        return Group(
            self.threshold,
            self.members or tuple(k[0] if len(k) == 1 else Group(len(k), k) for k in by_name),
        )

    def witness_keys(self, name: str) -> tuple[Verifier, ...]:
        """Return the keys listed under a witness's name."""
        return tuple(verifier for verifier in self.witnesses if verifier.name == name)

    @property
    def witness_names(self) -> tuple[str, ...]:
        """The witnesses, in the order in which they are listed."""
        return tuple(dict.fromkeys(verifier.name for verifier in self.witnesses))


def witness_time(checkpoint: Checkpoint, note: Note, keys: Sequence[Verifier]) -> int | None:
    """Return the earliest time at which a witness's keys signed; None unless all of them have.
    A line that names one of them but does not verify is BAD_SIGNATURE.
    """
    times = [signature_time(checkpoint, note.signatures, verifier) for verifier in keys]
    known = [time_s for time_s in times if time_s is not None]
    return min(known) if known and len(known) == len(times) else None


def verify_witnessed(data: bytes | str, policy: LogPolicy) -> Witnessed:
    """Check the log's signatures and the quorum of cosignatures.

    Errors: those of `parse_and_verify`, and NOT_WITNESSED if the quorum is missing.
    """
    checkpoint, note = parse_and_verify(data, policy.logs)
    signed = {
        key: time_s
        for key in policy.witnesses
        if (time_s := signature_time(checkpoint, note.signatures, key)) is not None
    }
    counting = policy.quorum.met_by(signed)
    if not counting:
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"the quorum of {policy.threshold} has not signed size {checkpoint.size};"
            f" it is signed by {', '.join(sorted({key.name for key in signed})) or 'nobody'}",
        )
    times = {
        name: min(signed[key] for key in counting if key.name == name)
        for name in dict.fromkeys(key.name for key in counting)
    }
    return Witnessed(checkpoint, note, times)
