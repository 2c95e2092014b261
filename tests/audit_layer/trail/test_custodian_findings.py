"""A worker's report of a share that does not fit: a finding against the custodian, and against nobody who signed nothing."""

import pytest

from audit_layer.trail.custodian_findings import SELF_CONTRADICTION, SHARE_MISMATCH
from audit_layer.trail.service import Submission
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


def escrow_report(
    signer: str = CUSTODIAN, custodian: str = CUSTODIAN, receipt: bytes = made.some("receipt")
) -> bytes:
    value = EscrowReport(
        request=made.some("request"),
        receipt=receipt,
        envelope=made.some("envelope"),
        custodian=custodian,
        key=made.some("key"),
    )
    return sign(value, key=made.key(signer), issuer=custodian)


def findings(world: World, kind: str = SHARE_MISMATCH) -> list[tuple]:
    return world.rows(
        "SELECT issuer, first_statement, second_statement FROM trail_findings WHERE kind = %s", kind
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


def released(receipt: bytes, custodian: str = CUSTODIAN) -> bytes:
    value = DisclosureRelease(
        request=made.some("another request"),
        receipt=receipt,
        custodian=custodian,
        share=made.some("share"),
    )
    return sign(value, key=made.key(custodian), issuer=custodian)


@pytest.mark.parametrize("order", ["release first", "report first", "together"])
def test_a_custodian_that_released_and_reports_contradicts_itself(held: World, order: str):
    """So whoever blames a client before one worker, and releases to another, is convicted by its own signatures."""
    (receipt,) = held.put(held.node.receipt("acme"))
    both = released(receipt.entry), escrow_report(receipt=receipt.entry)
    submissions = [Submission(raw) for raw in (both[::-1] if order == "report first" else both)]
    if order == "together":
        held.put(*submissions)
    else:
        for submission in submissions:
            held.put(submission)
    assert findings(held, SELF_CONTRADICTION) == [(CUSTODIAN, *both)]
    assert held.fsck() == []
    held.rows("DELETE FROM trail_findings")
    assert any("against a custodian" in problem for problem in held.fsck())


def test_custodians_that_differ_do_not_contradict_each_other(held: World):
    other = "custodian-2"
    held.trail.add_party(other, "custodian", made.public(other))
    one, another = held.put(held.node.receipt("acme"), held.node.receipt("acme"))
    held.put(
        Submission(released(one.entry)),
        Submission(escrow_report(other, other, one.entry)),
        Submission(escrow_report(receipt=another.entry)),
    )
    assert findings(held, SELF_CONTRADICTION) == []
    assert held.fsck() == []


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
