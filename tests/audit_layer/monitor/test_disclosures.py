"""What a tenant is told of a disclosure: who, why, under what, and what came of it."""

import pytest

from audit_layer.monitor.disclosures import summary_of
from audit_layer.monitor.findings import FoundError
from shared.statements.cose import parse_statement, sign, sign_statement
from shared.statements.disclosures import DISCLOSURE_TYPES
from tests.vectors.samples import SAMPLES, octets, signing_key

RECEIPT = octets("receipt").hex()
TOLD = {
    "audit-request": ("acme wants",),
    "disclosure-request": ("authority", "draw", octets("draw").hex(), "2026-03-02"),
    "disclosure-release": ("custodian-1", octets("request").hex()),
    "verdict": ("worker-1", "FAIL activations", octets("request").hex()),
    "escrow-report": ("escrow-report",),
    "share-report": ("share-report",),
}


@pytest.mark.parametrize("kind", sorted(DISCLOSURE_TYPES))
def test_every_statement_says_who_why_and_what_came_of_it(kind: str):
    value, signer, issuer = SAMPLES[kind]
    told = summary_of(parse_statement(sign(value, key=signing_key(signer), issuer=issuer)))
    assert RECEIPT in told
    for part in TOLD[kind]:
        assert part in told


def test_a_statement_that_is_none_of_its_type_is_a_finding():
    raw = sign_statement(
        "verdict", {"v": 1}, key=signing_key("worker"), issuer="worker-1", subject=RECEIPT
    )
    with pytest.raises(FoundError):
        summary_of(parse_statement(raw))
