"""All disclosures of a tenant, from the database to an answer: what the server shows passes, and what it hides is missed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_layer.commands.audit import audit
from audit_layer.trail import disclosure_document
from audit_layer.trail.service import Submission
from shared.codec.moment import MAX_MS, Period
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import sign
from shared.statements.disclosures import AuditRequest, DisclosureReason, DisclosureRequest
from shared.statements.seals import counted
from shared.verification.disclosure_record import (
    Answer,
    DisclosureDocument,
    judge_record,
    parse_record,
)
from tests.audit_layer.api import statements as made
from tests.audit_layer.selection.sealing_court import (
    BEGAN,
    DAY,
    END,
    GRACE,
    Court,
    court,
    make,
    world,
)
from tests.audit_layer.served import World as Server
from tests.audit_layer.served import until
from tests.audit_layer.served import world as server

__all__ = ["court", "make", "server", "world"]

EVER = Period(0, MAX_MS)


def record(court: Court, period: Period = EVER) -> DisclosureDocument:
    court.server.publish()
    engine = court.world.database.engine("server")
    found = disclosure_document.build(engine, court.log.proofs(), "acme", period)
    return parse_record(found.model_dump_json().encode())


def answer(court: Court, period: Period = EVER) -> Answer:
    found = record(court, period)
    return judge_record(found, found.trust.trust(), now=made.NOW)


def put(court: Court, raw: bytes) -> bytes:
    (accepted,) = court.world.put(Submission(raw))
    return accepted.entry


def audit_request(
    receipt: bytes, *, tenant: str = "acme", signed_by: str | None = None, at: int = made.NOW
) -> bytes:
    value = AuditRequest(tenant=tenant, receipt=receipt, at=at)
    return sign(value, key=made.key(signed_by or tenant), issuer=tenant)


def asked(court: Court, receipt: bytes, index: int, *, at: int = made.NOW) -> tuple[bytes, bytes]:
    """An audit that the tenant asked for: its request, and the authority's."""
    own = put(court, audit_request(receipt, at=at))
    value = DisclosureRequest(
        receipt=receipt,
        index=index,
        draw=own,
        reason=DisclosureReason.TENANT,
        recipient=made.some("worker"),
        deadline=made.NOW + DAY,
    )
    return own, put(court, sign(value, key=made.key("authority"), issuer="authority"))


def index_of(court: Court, entry: bytes) -> int:
    ((index,),) = court.world.rows("SELECT log_index FROM trail_statements WHERE entry = %s", entry)
    return int(index)


def test_a_tenant_sees_its_disclosures_and_the_seal_says_that_there_are_no_others(court: Court):
    mine, other = court.put(BEGAN, BEGAN)
    (foreign,) = court.put(BEGAN, tenant="bolt")
    own, request = asked(court, mine, index_of(court, mine))
    put(court, audit_request(foreign, tenant="bolt"))
    before = answer(court)
    assert (before.faults, before.sealed, before.receipts) == ((), (0, 0), 2)
    court.tick(END + GRACE)
    ((seal, _, index),) = court.seals()
    assert seal.disclosures == counted([own, request])
    after = answer(court)
    assert (after.faults, after.sealed) == ((), (0, seal.size))
    (row,) = after.rows
    assert (row.receipt, row.reason, row.basis) == (mine, "tenant", own)
    assert row.at == index_of(court, request)
    assert index >= seal.size
    assert other not in {row.receipt for row in after.rows}


def test_a_later_seal_counts_what_came_after_the_one_before(court: Court):
    (mine,) = court.put(BEGAN)
    asked(court, mine, index_of(court, mine))
    court.tick(END + GRACE)
    _, again = asked(court, mine, index_of(court, mine), at=made.NOW + 1)
    court.tick(END + DAY + GRACE)
    one, two = (seal for seal, _, _ in court.seals())
    assert [seal.disclosures and seal.disclosures.count for seal in (one, two)] == [2, 2]
    assert answer(court).faults == ()
    # A period that begins later needs the older requests of its receipts only.
    assert answer(court, Period(END, END + DAY)).receipts == 0
    hidden = record(court)
    lines = tuple(line for line in hidden.lines if line.entry != again.hex())
    shorter = hidden.model_copy(update={"lines": lines})
    faults = judge_record(shorter, hidden.trust.trust(), now=made.NOW).faults
    assert {(fault.step, fault.wrong) for fault in faults} == {(2, "hidden")}


def test_a_period_after_a_seal_shows_what_its_own_receipts_need(court: Court):
    court.put(BEGAN)
    court.tick(END + GRACE)
    court.put(BEGAN)
    court.tick(END + DAY + GRACE)
    (late,) = court.put(BEGAN + 1)
    asked(court, late, index_of(court, late))
    court.tick(END + 2 * DAY + GRACE)
    found = answer(court, Period(BEGAN + 1, END))
    seals = [seal for seal, _, _ in court.seals()]
    assert (found.faults, found.receipts, len(found.rows)) == ((), 1, 1)
    assert found.sealed == (seals[1].size, seals[2].size)


def test_too_many_receipts_are_refused(court: Court, monkeypatch: pytest.MonkeyPatch):
    court.put(BEGAN, BEGAN)
    monkeypatch.setattr(disclosure_document, "MAX_RECEIPTS", 1)
    with pytest.raises(CounterfoilError) as refused:
        record(court)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_an_audit_is_asked_for_by_the_receipts_own_tenant_only(court: Court):
    (mine,) = court.put(BEGAN)
    for raw, code in (
        (audit_request(mine, tenant="bolt"), Code.NOT_FOUND),
        (audit_request(made.some("nothing")), Code.NOT_FOUND),
        (audit_request(mine, signed_by="bolt"), Code.UNTRUSTED_KEY),
        (audit_request(mine, signed_by="stranger"), Code.UNTRUSTED_KEY),
    ):
        (refused,) = court.world.trail.submit([Submission(raw)])
        assert refused.error.code is code  # type: ignore[union-attr]


async def test_the_command_proves_it_with_the_tenants_token_and_offline(
    server: Server, tmp_path: Path
):
    token = tmp_path / "token"
    token.write_text(server.token("tenant", "acme"))
    token.chmod(0o600)
    at = ["--url", server.url, "--token-file", str(token), "--ca", str(server.ca)]
    kept = tmp_path / "record.json"
    runner = CliRunner()

    async def ask(*arguments: str) -> Any:
        return await asyncio.to_thread(
            runner.invoke, audit, ["disclosures", *arguments], standalone_mode=False
        )

    async def answered() -> Any:
        found = await ask("--tenant", "acme", "--json", "--out", str(kept), *at)
        if found.exception is not None:
            raise found.exception
        return found

    found = await until(answered, Code.NOT_WITNESSED)
    said = json.loads(found.stdout)["answer"]
    # The world's request names no draw, and its verdict no request.
    assert {(fault["step"], fault["wrong"]) for fault in said["faults"]} >= {
        (4, "draw"),
        (6, "request"),
    }
    assert found.return_value == 1
    assert len(said["rows"]) == 1
    assert (await ask("--check", str(kept), "--json")).return_value == 1
    shown = await ask("--check", str(kept))
    assert "(4) draw" in shown.stdout
    told = await asyncio.to_thread(
        runner.invoke, audit, ["custodians", "--check", str(kept), "--json"], standalone_mode=False
    )
    assert told.return_value == 1  # the faults above
    assert json.loads(told.stdout)["custodians"] == []
    foreign = ["disclosures", "--tenant", "bolt", *at]
    assert await asyncio.to_thread(run, audit, foreign) == 4
    assert (await ask(*at[2:])).exception is not None  # without an address
    kept.write_text("{}")
    assert await asyncio.to_thread(run, audit, ["disclosures", "--check", str(kept)]) == 3
