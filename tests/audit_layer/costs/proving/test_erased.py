"""Receipts that are stored encrypted are proved as they were signed; a line is not proved once one of them was erased."""

import pytest

from audit_layer.costs.invoicing import Invoicing
from audit_layer.costs.proving.service import LineProofs
from audit_layer.costs.service import Costs
from audit_layer.costs.stored_invoices import Submitted
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.line_proof import verify_line
from shared.verification.line_proof_file import parse_line_proof
from shared.verification.trust import Trust
from tests.audit_layer.costs.log_proofs import POLICY, LogProofs
from tests.audit_layer.costs.test_service import invoice, line
from tests.audit_layer.trail.conftest import world
from tests.audit_layer.trail.test_erasure import Vault, vault

__all__ = ["vault", "world"]


def test_a_line_is_proved_from_encrypted_receipts_until_one_is_erased(vault: Vault):
    entries = vault.put(vault.world.node.receipt("acme"), vault.world.node.receipt("acme"))
    Costs(vault.elsewhere()).rate_new()
    number = Invoicing(vault.elsewhere()).take(Submitted(invoice(line("output", 14, "2"))), by="f")
    proofs = LogProofs(vault.world.database)
    proof = parse_line_proof(LineProofs(vault.elsewhere(), proofs).make(number, "output-14"))
    report = verify_line(proof, Trust(POLICY))
    assert report.verified
    assert report.facts["entries"] == entries
    vault.erase()
    with pytest.raises(CounterfoilError, match="erased") as caught:
        LineProofs(vault.elsewhere(), proofs).make(number, "output-14")
    assert caught.value.code is Code.ERASED
    assert verify_line(proof, Trust(POLICY)).verified  # what was handed out stays a proof
