"""What verdicts of several workers come to: nodes' standing, and findings where two of them contradict each other."""

import pytest

from audit_layer.trail.disagreements import WORKERS_DISAGREE
from audit_layer.trail.service import Submission
from audit_layer.trail.standings import Standings
from shared.statements.cose import entry_of
from shared.statements.disclosures import DisclosureReason
from shared.statements.verdicts import Reason
from shared.verification.standing import Record, Standing
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]


@pytest.fixture
def two(world: World) -> World:
    """The world with a second worker."""
    world.trail.add_party("second", "worker", made.public("second"))
    return world


def findings(world: World) -> list[tuple]:
    return world.rows(
        "SELECT issuer, first_statement, second_statement FROM trail_findings WHERE kind = %s ORDER BY id",
        WORKERS_DISAGREE,
    )


def test_standing_follows_the_trail_and_reads_only_what_is_new(two: World):
    standings = Standings(two.database.engine("server"))
    assert standings.records() == {}
    first, other = two.put(two.node.receipt("acme"), two.node.receipt("acme"))
    two.put(Submission(made.verdict(other.entry)))
    assert standings.records() == {("alpha", "one"): Record(passed=1)}
    fail = made.verdict(first.entry, reason=Reason.TOKENS)
    two.put(Submission(fail))
    record = standings.records()["alpha", "one"]
    assert (record.open, record.standing) == (1, Standing.WATCHED)
    confirmed = made.verdict(
        first.entry, reason=Reason.STREAM, worker="second", confirms=entry_of(fail)
    )
    two.put(Submission(confirmed))
    record = standings.records()["alpha", "one"]
    assert (record.convicted, record.standing) == (1, Standing.SUSPENDED)
    assert record.because == entry_of(confirmed)
    assert Standings(two.database.engine("server")).records() == standings.records()
    assert findings(two) == []


@pytest.mark.parametrize("shown", [False, True])
def test_a_pass_on_what_its_tenant_chose_is_kept_and_counts_for_nothing(two: World, shown: bool):
    """Whether the tenant asked for the audit, or its client showed the request itself."""
    standings = Standings(two.database.engine("server"))
    (receipt,) = two.put(two.node.receipt("acme"))
    (audit,) = two.put(Submission(made.audit_request(receipt.entry)))
    asked = made.disclosure_request(receipt.entry, audit.entry, DisclosureReason.TENANT)
    two.put(Submission(asked))
    named = receipt.entry if shown else entry_of(asked)
    two.put(Submission(made.verdict(receipt.entry, request=named)))
    assert standings.records() == {("alpha", "one"): Record()}
    again = made.disclosure_request(receipt.entry)
    two.put(Submission(again), Submission(made.verdict(receipt.entry, request=entry_of(again))))
    assert standings.records() == {("alpha", "one"): Record(passed=1)}
    assert two.fsck() == []
    two.rows("UPDATE trail_verdicts SET asked = NOT asked")
    assert len(two.fsck()) == 2


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("one", "other"), [(Reason.TOKENS, Reason.EXACT), (Reason.EXACT, Reason.STREAM)]
)
def test_two_workers_that_contradict_each_other_are_a_finding(
    two: World, one: Reason, other: Reason, together: bool
):
    (receipt,) = two.put(two.node.receipt("acme"))
    first = made.verdict(receipt.entry, reason=one)
    second = made.verdict(receipt.entry, reason=other, worker="second")
    if together:
        two.put(Submission(first), Submission(second))
    else:
        two.put(Submission(first))
        two.put(Submission(second))
    assert findings(two) == [("second", first, second)]
    assert two.fsck() == []
    two.put(Submission(second))  # sent again
    assert len(findings(two)) == 1


def test_what_does_not_contradict_is_no_finding(two: World):
    (receipt,) = two.put(two.node.receipt("acme"))
    fail = made.verdict(receipt.entry, reason=Reason.TOKENS)
    two.put(
        Submission(fail),
        Submission(made.verdict(receipt.entry)),  # the same worker, who looked again
        Submission(made.verdict(receipt.entry, reason=Reason.UNAVAILABLE, worker="second")),
    )
    assert findings(two) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM trail_findings", "no row says so in trail_findings.kind"),
        ("UPDATE trail_findings SET issuer = 'worker'", "is not the worker of second_statement"),
        (
            "UPDATE trail_findings SET second_statement = first_statement",
            "do not contradict each other",
        ),
        ("UPDATE trail_findings SET first_statement = 'junk'", "first_statement"),
        ("UPDATE trail_findings SET at = 1", "is before its first_statement"),
    ],
)
def test_fsck_sees_a_disagreement_that_is_missing_or_altered(two: World, change: str, told: str):
    (receipt,) = two.put(two.node.receipt("acme"))
    two.put(Submission(made.verdict(receipt.entry)))
    two.put(Submission(made.verdict(receipt.entry, reason=Reason.TOKENS, worker="second")))
    assert two.fsck() == []
    two.rows(change)
    assert any(told in problem for problem in two.fsck())
