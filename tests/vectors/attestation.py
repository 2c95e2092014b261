"""Key bundles with evidence, and what its verifier claims as of a time (protocol §2.4)."""

from collections.abc import Iterator
from dataclasses import replace

from shared.runtime.keys import public_bytes
from shared.statements.cose import sign
from shared.statements.keys import Attestation
from shared.verification.attestation import report_data
from shared.verification.development_attestation import FORMAT, Evidence, appraise, message
from tests.vectors.files import Json
from tests.vectors.samples import BUNDLE, octets, signing_key

ATTESTER = signing_key("attester")


def _evidence(data: bytes, at: int, until: int) -> bytes:
    signature = ATTESTER.sign(message(data, at, until))
    return Evidence(data, at, until, public_bytes(ATTESTER), signature).to_cbor()


def vectors() -> Json:
    """Return the vectors' file."""
    start, end = BUNDLE.not_before, BUNDLE.not_after
    good = _evidence(report_data(BUNDLE), start, end)
    attested = replace(BUNDLE, attestation=Attestation(FORMAT, good))
    return {
        "report_data": report_data(BUNDLE).hex(),
        "statement": sign(attested, key=signing_key("operator"), issuer=BUNDLE.operator).hex(),
        "cases": list(_cases(good, start, end)),
    }


def _cases(good: bytes, start: int, end: int) -> Iterator[Json]:
    longer = replace(Evidence.from_cbor(good, max_bytes=1024), until=end + 1).to_cbor()
    for name, evidence, at in (
        ("as it should be", good, start),
        ("before it counts", good, start - 1),
        ("expired", good, end),
        ("of another key bundle", _evidence(octets("another"), start, end), start),
        ("with a longer life than was signed", longer, start),
    ):
        claims = appraise(evidence, report_data(BUNDLE), at)
        yield {
            "name": name,
            "evidence": evidence.hex(),
            "as_of": at,
            "claims": {claim.name: claim.value.value for claim in claims},
        }
