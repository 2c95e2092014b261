"""A development attester: evidence that a program signs about itself, with a key of its own making.

It has the form of real evidence, so that everything around it can be built and tested on any machine, and is worth nothing:
no hardware vouches for it. A client's policy refuses it unless it says otherwise (`attestation.development`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.codec.hashing import framing
from shared.statements.schema import Bytes32, Bytes64, Ms, Record
from shared.verification.attestation import BOUND, FRESH, Claim, Value

FORMAT: Final = "counterfoil-development"
HARDWARE: Final = "hardware"
"""The claim that hardware keeps the keys to itself: always denied here."""
MAX_EVIDENCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Evidence(Record):
    """The evidence, CBOR."""

    report_data: Bytes32
    at: Ms
    until: Ms
    key: Bytes32
    signature: Bytes64
    """Over F("development-attestation", report_data, u64 at, u64 until)."""


def attest(report_data: bytes, at: int, until: int) -> bytes:
    """Return evidence for some report data, which counts in [at, until) (ms)."""
    key = Ed25519PrivateKey.generate()
    signature = key.sign(message(report_data, at, until))
    return Evidence(
        report_data, at, until, key.public_key().public_bytes_raw(), signature
    ).to_cbor()


def appraise(evidence: bytes, report_data: bytes, as_of_ms: int) -> Iterable[Claim]:
    """Appraise such evidence; MALFORMED if it is none."""
    found = Evidence.from_cbor(evidence, max_bytes=MAX_EVIDENCE)
    try:
        Ed25519PublicKey.from_public_bytes(found.key).verify(
            found.signature, message(found.report_data, found.at, found.until)
        )
        signed = True
    except (InvalidSignature, ValueError):
        signed = False
    bound = signed and found.report_data == report_data
    fresh = signed and found.at <= as_of_ms < found.until
    yield Claim(BOUND, _value(bound), "signed by itself")
    yield Claim(FRESH, _value(fresh), "by its own times")
    yield Claim(HARDWARE, Value.DENIED, "anybody can make such evidence")


def _value(holds: bool) -> Value:
    return Value.AFFIRMED if holds else Value.DENIED


def message(report_data: bytes, at: int, until: int) -> bytes:
    """Return what the attester signs."""
    return framing(
        "development-attestation", report_data, at.to_bytes(8, "big"), until.to_bytes(8, "big")
    )
