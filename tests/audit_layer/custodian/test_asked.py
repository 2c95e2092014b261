"""A custodian and what tenants ask for: what leaves, what its policy and its limits stop, and what it keeps of that."""

import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from audit_layer.custodian import store
from audit_layer.custodian.app import public_report
from audit_layer.custodian.store import read_reports
from shared.codec.hashing import sha256
from shared.codec.moment import now_ms
from shared.envelope.body import Audit
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as
from shared.statements.disclosures import DisclosureReason, DisclosureRelease
from shared.verification.limits import Rule
from shared.verification.trust import Role
from tests.audit_layer.custodian import custody
from tests.shared.selection import world as worlds
from tests.shared.selection.world import TERMS, TRUST, World, not_by_rate, trusting
from tests.vectors.samples import signing_key

ASKED: dict[str, Any] = {"asked": True, "reason": DisclosureReason.TENANT, "subject": not_by_rate}
GOOD = World(**ASKED)
ONE = replace(TERMS, limits=replace(TERMS.limits, max_asked_per_day=1))


def refused(holder, world):
    with pytest.raises(CounterfoilError) as caught:
        custody.release(holder, world)
    return caught.value.code


def test_a_share_leaves_for_what_the_tenant_asked_and_counts_as_that(tmp_path):
    with custody.custodian(tmp_path) as holder:
        released = custody.release(holder, GOOD)
        assert custody.release(holder, GOOD) == released
        share = custody.share(holder, GOOD, released)
    release, _ = open_as(DisclosureRelease, released, custody.PUBLIC)
    assert (release.request, release.share) == (entry_of(GOOD.request), sha256(share))
    _, counted = read_reports(tmp_path / custody.RELEASES, now_ms())
    assert counted == {DisclosureReason.TENANT: 1}


def test_the_authority_alone_cannot_have_a_request_opened_where_no_tenants_are_pinned(tmp_path):
    """It may run a tenant's name and key of its own: the sealed policy ("sampled") does not say "always"."""
    with custody.custodian(tmp_path, trust=trusting(Role.TENANT, None)) as holder:
        assert refused(holder, GOOD) is Code.FORBIDDEN
        forger = signing_key("authority")
        made_up = World(**ASKED, signer={"audit": forger, "order": forger})
        assert refused(holder, made_up) is Code.FORBIDDEN
        assert holder.store.find(entry_of(GOOD.request)) is None
        assert custody.release(holder, World())


def test_what_tenants_ask_beyond_the_limit_of_a_day_is_refused_and_reported_without_an_epoch(
    tmp_path,
):
    second = World(**(ASKED | {"subject": lambda world: max(world.receipts)}))
    with custody.custodian(tmp_path, terms=ONE) as holder:
        custody.release(holder, GOOD)
        assert refused(holder, second) is Code.QUOTA
        (report,) = holder.store.reports()
        assert (report.rule, report.epoch) == (Rule.ASKED_A_DAY, None)
        assert report.about == entry_of(second.request)
        assert public_report(report)["epoch"] is None
        assert custody.release(holder, World())


def test_a_file_that_knew_only_epochs_keeps_its_reports(tmp_path):
    old = sqlite3.connect(tmp_path / custody.RELEASES)
    old.executescript(f"{store._FIRST};{store._SECOND}")
    old.execute(
        "INSERT INTO reports VALUES (4, 'rate', ?, 3, 'too much', ?, 9)", (b"r" * 32, b"\xa0")
    )
    old.execute("PRAGMA user_version = 2")
    old.commit()
    old.close()
    with custody.custodian(tmp_path, terms=ONE) as holder:
        (report,) = holder.store.reports()
        assert (report.rule, report.epoch, report.at) == (Rule.RATE, 3, 9)
        custody.release(holder, GOOD)


@pytest.mark.parametrize("audit", list(Audit))
@pytest.mark.parametrize("pinned", [True, False])
def test_what_the_client_sealed_decides_whether_asking_is_enough(
    tmp_path, monkeypatch, audit, pinned
):
    """Not even the tenant that sealed "never" has it opened later."""
    made = custody.request(audit)
    monkeypatch.setattr(worlds, "sealed", lambda **_: made)
    world = World(**ASKED)
    permits = audit is Audit.ALWAYS or (pinned and audit is Audit.SAMPLED)
    trust = TRUST if pinned else trusting(Role.TENANT, None)
    with custody.custodian(tmp_path, trust=trust) as holder:
        if permits:
            assert custody.release(holder, world)
        else:
            assert refused(holder, world) is Code.FORBIDDEN
    assert custody.kept(tmp_path) == permits
