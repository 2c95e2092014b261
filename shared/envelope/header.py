"""The envelope's wire form: a public header, the wraps, the sealed body (protocol §3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from shared.codec.hashing import labelled_hash
from shared.envelope.body import MAX_BODY, SMALLEST_BODY
from shared.envelope.hpke import OVERHEAD
from shared.envelope.padding import is_size_class, padded_size
from shared.envelope.shares import MAX_SHARES
from shared.statements.keys import MAX_STAGES
from shared.statements.orders import MAX_TOKENS
from shared.statements.rules import Count, Octets, Whole
from shared.statements.schema import Bytes32, Embedded, Ms, Name, Record

MAX_ENVELOPE = 4 * 2**20
MAX_HEADER = 64 * 2**10
MAX_CANDIDATES = 8
TAG_BYTES = 16
SMALLEST_ESCROW = 256
WRAP_BYTES = OVERHEAD + 32
ESCROW_BYTES = OVERHEAD + SMALLEST_ESCROW
STAGE_WRAP_BYTES = OVERHEAD + 64

_Hashes = Annotated[tuple[Bytes32, ...], Count(1, MAX_SHARES)]


@dataclass(frozen=True, slots=True)
class HeaderStage(Record):
    """A stage that will see states of the request (protocol §4.10)."""

    bundle: Bytes32
    keys: Bytes32
    """Commitment to the secrets of the boundaries on its two sides."""


@dataclass(frozen=True, slots=True)
class Header(Record):
    """What routing and admission need; its hash is `ctx`."""

    CONSTANTS: ClassVar[Mapping[str, int]] = {"v": 1, "suite": 1}

    request: Annotated[bytes, Octets(16, 16)]
    tenant: Name
    candidates: Annotated[tuple[Bytes32, ...], Count(1, MAX_CANDIDATES)]
    """Entries of the key bundles that can open it."""
    model_root: Bytes32
    max_output_tokens: Annotated[int, Whole(MAX_TOKENS, 1)]
    policy: Bytes32
    threshold: Annotated[int, Whole(MAX_SHARES, 1)]
    shares: _Hashes
    """Commitments to the escrow shares."""
    custodians: _Hashes
    """Key ids of the custodians' HPKE keys, in the order of the shares."""
    expiry: Ms
    padded: Annotated[int, Whole(padded_size(MAX_BODY, SMALLEST_BODY), SMALLEST_BODY)]
    stages: Annotated[tuple[HeaderStage, ...], Count(1, MAX_STAGES)] | None = None
    """In order; the one candidate is their head."""

    def check(self) -> None:
        """Check the lists against each other, and the size class."""
        self.require(
            len(self.shares) == len(self.custodians), "does not have one share per custodian"
        )
        self.require(self.threshold <= len(self.shares), "has fewer shares than its threshold")
        for name, items in (("candidate", self.candidates), ("custodian", self.custodians)):
            self.require(len(set(items)) == len(items), f"names a {name} twice")
        chain = (*self.candidates, *(stage.bundle for stage in self.stages or ()))
        self.require(
            self.stages is None or (len(self.candidates) == 1 and len(set(chain)) == len(chain)),
            "names stages for several candidates, or a key bundle twice in a chain",
        )
        self.require(is_size_class(self.padded, SMALLEST_BODY), "has a body of no size class")

    @property
    def ctx(self) -> bytes:
        """The hash to which everything in this request is bound."""
        return labelled_hash("ctx", self.to_cbor())


@dataclass(frozen=True, slots=True)
class Envelope(Record):
    """The whole envelope. Nothing in it has been opened or verified."""

    header: Annotated[Header, Embedded(Header, MAX_HEADER)]
    kc: Bytes32
    wraps: Annotated[
        tuple[Annotated[bytes, Octets(WRAP_BYTES, WRAP_BYTES)], ...], Count(1, MAX_CANDIDATES)
    ]
    """The transcript secret, sealed for each candidate."""
    escrow: Annotated[
        tuple[Annotated[bytes, Octets(ESCROW_BYTES, ESCROW_BYTES)], ...], Count(1, MAX_SHARES)
    ]
    """One share, sealed for each custodian."""
    body: Annotated[bytes, Octets(MAX_ENVELOPE, SMALLEST_BODY + TAG_BYTES)]
    stage_wraps: (
        Annotated[
            tuple[Annotated[bytes, Octets(STAGE_WRAP_BYTES, STAGE_WRAP_BYTES)], ...],
            Count(1, MAX_STAGES),
        ]
        | None
    ) = None
    """The secrets of its two boundaries, sealed for each stage."""

    def check(self) -> None:
        """Check the lists and the body against the header."""
        header = self.header
        self.require(
            len(self.wraps) == len(header.candidates), "does not have one wrap per candidate"
        )
        self.require(
            len(self.escrow) == len(header.custodians), "does not have one wrap per custodian"
        )
        self.require(
            len(self.stage_wraps or ()) == len(header.stages or ()),
            "does not have one wrap per stage",
        )
        self.require(len(self.body) == header.padded + TAG_BYTES, "has a body of another size")

    def to_bytes(self) -> bytes:
        """Encode. The fields' bounds keep it below 4 MiB."""
        return self.to_cbor()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; MALFORMED unless it is an envelope."""
        return cls.from_cbor(data, max_bytes=MAX_ENVELOPE)


def envelope_hash(envelope: bytes) -> bytes:
    """Return the hash of an envelope's bytes that orders and receipts carry."""
    return labelled_hash("envelope", envelope)
