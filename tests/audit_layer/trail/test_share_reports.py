"""A worker's report of a share that does not fit: a finding against the custodian, and against nobody who signed nothing."""

import pytest

from audit_layer.trail.service import Submission
from audit_layer.trail.share_reports import SHARE_MISMATCH
from shared.runtime.errors import Code
from shared.statements.cose import entry_of, sign
from shared.statements.disclosures import DisclosureRelease, EscrowReport, ShareReport
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]

CUSTODIAN = "custodian-1"


@pytest.fixture
def held(world: World) -> World:
    """The world with a custodian whose release is in the log."""
    world.trail.add_party(CUSTODIAN, "custodian", made.public(CUSTODIAN))
    world.put(world.node.receipt("acme"), Submission(RELEASE))
    return world


RELEASE = sign(
    DisclosureRelease(
        request=made.some("request"),
        receipt=made.some("receipt"),
        custodian=CUSTODIAN,
        share=made.some("share"),
    ),
    key=made.key(CUSTODIAN),
    issuer=CUSTODIAN,
)


def report(worker: str = "worker", signer: str = "worker", **changes: object) -> bytes:
    value = {
        "release": entry_of(RELEASE),
        "request": made.some("request"),
        "receipt": made.some("receipt"),
        "custodian": CUSTODIAN,
        "worker": worker,
        **changes,
    }
    return sign(ShareReport(**value), key=made.key(signer), issuer=worker)  # type: ignore[arg-type]


def escrow_report(signer: str = CUSTODIAN, custodian: str = CUSTODIAN) -> bytes:
    value = EscrowReport(
        request=made.some("request"),
        receipt=made.some("receipt"),
        envelope=made.some("envelope"),
        custodian=custodian,
        key=made.some("key"),
    )
    return sign(value, key=made.key(signer), issuer=custodian)


def findings(world: World) -> list[tuple]:
    return world.rows(
        "SELECT issuer, first_statement, second_statement FROM trail_findings WHERE kind = %s",
        SHARE_MISMATCH,
    )


def test_a_report_is_a_finding_against_the_custodian_with_both_statements(held: World):
    for _ in range(2):
        held.put(Submission(report()))
    assert findings(held) == [(CUSTODIAN, RELEASE, report())]
    assert held.fsck() == []


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (report(release=made.some("none")), Code.NOT_FOUND),
        (report(custodian="custodian-2"), Code.INVALID_ARGUMENT),
        (report(request=made.some("other")), Code.INVALID_ARGUMENT),
        (report(receipt=made.some("other")), Code.INVALID_ARGUMENT),
        (report(signer="stranger"), Code.UNTRUSTED_KEY),
        (report(signer=CUSTODIAN), Code.UNTRUSTED_KEY),
        (report(worker="second"), Code.UNTRUSTED_KEY),
        (escrow_report(signer="worker"), Code.UNTRUSTED_KEY),
        (escrow_report(custodian="custodian-2"), Code.UNTRUSTED_KEY),
    ],
)
def test_nobody_is_reported_for_what_is_not_in_the_log_or_by_who_is_not_to_say_it(
    held: World, statement: bytes, code: Code
):
    assert held.code(statement) is code
    assert findings(held) == []


def test_an_escrow_report_is_kept_and_is_no_finding(held: World):
    held.put(Submission(escrow_report()))
    assert held.rows("SELECT count(*) FROM trail_findings") == [(0,)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM trail_findings", "no row says so in trail_findings.kind"),
        ("UPDATE trail_findings SET issuer = 'worker'", "is not the custodian of first_statement"),
        ("UPDATE trail_findings SET first_statement = 'junk'", "first_statement"),
        ("UPDATE trail_findings SET at = 1", "is before its first_statement"),
    ],
)
def test_fsck_sees_a_finding_that_is_missing_or_altered(held: World, change: str, told: str):
    held.put(Submission(report()))
    held.rows(change)
    assert any(told in problem for problem in held.fsck())
