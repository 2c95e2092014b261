"""Key bundles and their revocation; both are signed by the operator's identity key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from shared.runtime.clocks import untimely
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import check_signing_key
from shared.statements.rules import Count, Either, Octets, Text, Whole, refuse
from shared.statements.schema import Bytes32, Line, Ms, Name, Record, Statement, Uint

HOUR_MS = 3_600_000
MAX_LIFE_MS = 25 * HOUR_MS
"""HPKE keys live at most 24 hours, and overlap their successors by one hour."""

_PROFILE_VALUE = Either({str: Text(512), int: Whole(2**63 - 1)})


@dataclass(frozen=True, slots=True)
class Attestation(Record):
    """Evidence in a format that a verifier knows; everybody can read it in the log."""

    format: Name
    evidence: Annotated[bytes, Octets(32_768, 1)]


MAX_LAYERS = 2**16
MAX_STAGES = 64


@dataclass(frozen=True, slots=True)
class Layers(Record):
    """The layers [first, last) of a model."""

    first: Annotated[int, Whole(MAX_LAYERS)]
    last: Annotated[int, Whole(MAX_LAYERS)]

    def check(self) -> None:
        """Check that there is one."""
        self.require(self.first < self.last, "holds no layer")


@dataclass(frozen=True, slots=True)
class Offer(Record):
    """What a node says of its speed, in rows per second one at a time and in chunks, its memory and its place. All of it claims."""

    decode_rows: Uint
    prefill_rows: Uint
    memory_mib: Uint
    """For keys and values."""
    region: Name | None = None


@dataclass(frozen=True, slots=True)
class KeyBundle(Statement):
    """A node's public keys, bound to the models it serves, its numeric profile and an expiry."""

    TYPE: ClassVar[str] = "key-bundle"
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"layers"})

    operator: Name
    node: Name
    not_before: Ms
    not_after: Ms
    signing_key: Bytes32
    hpke_key: Annotated[bytes, Octets(1216, 1216)]
    model_roots: Annotated[tuple[Bytes32, ...], Count(1, 64)]
    numeric_profile: Bytes32
    profile: Annotated[
        dict[Annotated[str, Text(64, 1, line=True)], Annotated[str | int, _PROFILE_VALUE]],
        Count(0, 64),
    ]
    endpoint: Line
    evidence: Line | None = None
    """Where audit workers ask for evidence, host:port; at `endpoint` if absent."""
    attestation: Attestation | None = None
    """Evidence about where the keys live; without it, nothing is claimed."""
    layers: Layers | None = None
    """Of its one model: what it computes as a stage of chains (protocol §4.10). Without it, it answers with the whole model."""
    stages: Annotated[tuple[Line, ...], Count(1, MAX_STAGES)] | None = None
    """Names of the stages (`operator/node`), in order, to which it leaves layers."""
    offer: Offer | None = None

    @property
    def subject(self) -> str:
        """The node."""
        return self.issuer

    def check(self) -> None:
        """Check the lifetime, and that the signing key's signatures are binding."""
        self.require(
            0 < self.not_after - self.not_before <= MAX_LIFE_MS,
            "does not have a life of up to 25 hours",
        )
        self.require(
            len(set(self.model_roots)) == len(self.model_roots), "names a model root twice"
        )
        self.require(
            self.layers is None or (len(self.model_roots) == 1 and self.stages is None),
            "has layers of several models, or leaves layers to others that it has not",
        )
        try:
            check_signing_key(self.signing_key)
        except CounterfoilError:
            refuse("key-bundle.signing_key", "is not a usable Ed25519 key")

    @property
    def issuer(self) -> str:
        """The name under which the node signs and numbers its receipts."""
        return f"{self.operator}/{self.node}"

    def is_live(self, now_ms: int) -> bool:
        """Whether the bundle may be used at this time."""
        return self.not_before <= now_ms < self.not_after


def stale_bundle(
    bundle: KeyBundle, now_ms: int, metadata: Mapping[str, str] | None = None
) -> CounterfoilError:
    """Return the STALE_KEY that says when a key bundle is valid that is not valid now."""
    early = now_ms < bundle.not_before
    return untimely(
        Code.STALE_KEY,
        f"the key bundle of {bundle.issuer} {'is not valid before' if early else 'expired at'}",
        bundle.not_before if early else bundle.not_after,
        now_ms,
        remedy="Read the key directory again; if that does not help, check whether a clock is wrong.",
        metadata=metadata,
    )


@dataclass(frozen=True, slots=True)
class Revocation(Statement):
    """Ends a key bundle before its expiry."""

    TYPE: ClassVar[str] = "revocation"

    bundle: Bytes32
    reason: Line
    at: Ms

    @property
    def subject(self) -> str:
        """The key bundle that it ends."""
        return self.bundle.hex()
