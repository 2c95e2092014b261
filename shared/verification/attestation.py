"""Evidence about where a node's keys live, appraised as of a time into claims with sources (protocol §2.4). Pure.

A key bundle can carry evidence in some format. A verifier for that format, usually a plug-in, turns it into claims; what it
cannot tell is `unknown`, never `affirmed`. Nobody has to believe a claim: a policy says which must be affirmed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from shared.codec.hashing import labelled_hash
from shared.statements.keys import KeyBundle

BOUND: Final = "bound"
"""The claim that the evidence is about this key bundle's keys: its report data is theirs."""
FRESH: Final = "fresh"
"""The claim that the evidence counts at the time of the appraisal."""
MAX_CLAIMS: Final = 64
MAX_TEXT: Final = 256


class Value(StrEnum):
    """What is known about a claim."""

    AFFIRMED = "affirmed"
    DENIED = "denied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim about the machine behind a key bundle, and who says so."""

    name: str
    value: Value
    source: str


class Verifier(Protocol):
    """Appraises evidence of one format: the plug-in's function."""

    def __call__(self, evidence: bytes, report_data: bytes, as_of_ms: int) -> Iterable[Claim]:
        """Return what the evidence shows at a time. `bound` is affirmed only if the evidence vouches for `report_data` (32 bytes),
        `fresh` only if it counts at that time. Whatever this raises makes every claim unknown.
        """
        ...


def report_data(bundle: KeyBundle) -> bytes:
    """Return what evidence must vouch for: node, keys and life of a key bundle."""
    return labelled_hash(
        "attestation",
        bundle.issuer.encode(),
        bundle.signing_key,
        bundle.hpke_key,
        bundle.not_before.to_bytes(8, "big"),
        bundle.not_after.to_bytes(8, "big"),
    )


def checked_claims(claims: Iterable[object], source: str) -> tuple[Claim, ...]:
    """Return a verifier's claims; ValueError if they are not claims, too many, or one of them is made twice."""
    found: dict[str, Claim] = {}
    for claim in claims:
        if not isinstance(claim, Claim) or not isinstance(claim.value, Value):
            raise ValueError("a verifier returned something else than claims")  # noqa: TRY004  # one error for all of it
        if claim.name in found or len(found) == MAX_CLAIMS:
            raise ValueError("a verifier made a claim twice, or too many")
        if not 0 < len(claim.name) <= 64 or len(claim.source) > MAX_TEXT:
            raise ValueError("a verifier made a claim with too long a name or source")
        found[claim.name] = Claim(claim.name, claim.value, f"{source}: {claim.source}")
    return tuple(found.values())


def value_of(claims: Iterable[Claim], name: str) -> Value:
    """Return what is known about a claim: unknown if nobody makes it."""
    return next((claim.value for claim in claims if claim.name == name), Value.UNKNOWN)
