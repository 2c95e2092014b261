"""What is erased is permanently unreadable, what is not stays readable, and no proof changes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.costs.service import Costs
from audit_layer.storage.engine import session
from audit_layer.trail import at_rest
from audit_layer.trail.at_rest import DAY_MS, Keeper, create_key_file, keeper_of, with_keeper
from audit_layer.trail.completeness import holdings
from audit_layer.trail.erasure import ERASE_LOCK, Eraser
from audit_layer.trail.fsck import check_trail
from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.models import StatementRow
from audit_layer.trail.service import Accepted, Refused, Submission, Trail
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as, sign
from shared.statements.erasures import Erasure
from shared.statements.receipts import Receipt
from shared.statements.seals import entries_digest
from shared.statements.verdicts import Verdict
from tests.audit_layer.api import statements as made
from tests.audit_layer.replay import court
from tests.audit_layer.trail.conftest import World, opened, world

__all__ = ["world"]

BEGAN = made.NOW - 1000
TODAY = Period(BEGAN // DAY_MS * DAY_MS, BEGAN // DAY_MS * DAY_MS + DAY_MS)
LATER = TODAY.end + 1


@dataclass
class Vault:
    """A trail that stores receipts encrypted, and an eraser for it."""

    world: World
    engine: Engine
    trail: Trail
    key_file: Path

    def put(self, *submissions: Submission) -> list[bytes]:
        results = self.trail.submit(submissions)
        assert all(isinstance(result, Accepted) for result in results), results
        return [result.entry for result in results if isinstance(result, Accepted)]

    def erase(self, tenant: str = "acme") -> Erasure:
        eraser = Eraser(self.engine, self.trail, made.key("authority"), name="authority")
        done = eraser.erase(tenant, TODAY, reason="asked to", requested_by=tenant, now=LATER)
        return done.value

    def elsewhere(self) -> Engine:
        """The same database as another process sees it, which remembers nothing."""
        return with_keeper(self.world.database.engine("server"), self.key_file)

    def read(self, entry: bytes) -> bytes:
        with session(self.elsewhere()) as db:
            return at_rest.decrypted(db, db.get_one(StatementRow, entry).raw)

    def fsck(self) -> list[str]:
        return check_trail(self.elsewhere(), now=LATER)


@pytest.fixture
def vault(world: World, tmp_path: Path) -> Iterator[Vault]:
    key_file = tmp_path / "erasure.key"
    create_key_file(key_file)
    engine = with_keeper(world.database.engine("server"), key_file)
    with opened(engine) as trail:
        yield Vault(world, engine, trail, key_file)


def refused(call) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        call()
    return caught.value


# -- at rest -------------------------------------------------------------------------------------------


def test_receipts_and_orders_are_not_in_the_tables_as_they_were_signed(vault: Vault):
    submission = vault.world.node.receipt("acme")
    (entry,) = vault.put(submission)
    for table in ("trail_statements", "trail_orders"):
        rows = vault.world.rows(f"SELECT raw FROM {table}")  # noqa: S608  # a constant
        for (raw,) in rows:
            assert submission.statement[40:80] not in raw
            assert submission.order is not None
            assert submission.order[40:80] not in raw
    assert vault.read(entry) == submission.statement
    row = vault.trail.statement(entry)
    assert row is not None
    assert row.raw == submission.statement
    assert [row.raw for row in vault.trail.statements(type="receipt")] == [submission.statement]
    assert vault.fsck() == []
    assert vault.world.rows("SELECT raw FROM trail_statements WHERE type = 'key-bundle'")[0][
        0
    ].startswith(b"\xd2")


def test_a_tenants_day_has_one_key_however_many_write_at_once(vault: Vault):
    vault.put(*(vault.world.node.receipt(name) for name in ("acme", "bolt") * 3))
    with opened(vault.elsewhere()) as other:
        other.submit([vault.world.node.receipt("acme")])
    assert vault.world.rows("SELECT tenant, day FROM trail_data_keys ORDER BY tenant") == [
        ("acme", TODAY.start),
        ("bolt", TODAY.start),
    ]


def test_statements_stored_before_there_was_a_key_file_stay_readable(vault: Vault):
    (before,) = vault.world.put(vault.world.node.receipt("acme"))
    (after,) = vault.put(vault.world.node.receipt("acme"))
    assert vault.read(before.entry)[:1] == vault.read(after)[:1] == b"\xd2"
    assert vault.fsck() == []


@pytest.mark.parametrize("table", ["trail_statements", "trail_orders"])
def test_a_changed_byte_of_an_encrypted_statement_is_found_wherever_it_is(vault: Vault, table: str):
    vault.put(vault.world.node.receipt("acme"))
    where = "WHERE get_byte(raw, 0) = 1"
    ((raw, entry),) = vault.world.rows(f"SELECT raw, entry FROM {table} {where}")  # noqa: S608
    update = f"UPDATE {table} SET raw = %s WHERE entry = %s"  # noqa: S608
    for at in (0, 3, 8, 9, 40, 41, 99, len(raw) - 1):
        vault.world.rows(update, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], entry)
        assert vault.fsck(), at
    vault.world.rows(update, raw[:30], entry)
    assert vault.fsck()
    vault.world.rows(update, raw, entry)
    assert vault.fsck() == []


def test_one_statement_cannot_be_stored_in_anothers_place(vault: Vault):
    one, other = vault.put(*(vault.world.node.receipt("acme") for _ in range(2)))
    vault.world.rows(
        "UPDATE trail_statements SET raw = (SELECT raw FROM trail_statements WHERE entry = %s)"
        " WHERE entry = %s",
        one,
        other,
    )
    assert any("another statement" in line for line in vault.fsck())


def test_without_the_key_file_an_encrypted_statement_is_refused_with_a_remedy(vault: Vault):
    (entry,) = vault.put(vault.world.node.receipt("acme"))
    error = refused(lambda: vault.world.trail.statement(entry))
    assert error.code is Code.CONFIGURATION
    assert "erasure_key_file" in error.detail
    vault.key_file.write_text("ab" * 32 + "\n")
    assert refused(lambda: vault.read(entry)).code is Code.CONFIGURATION
    for junk in ("", "xyz", "ab"):
        vault.key_file.write_text(junk)
        assert refused(lambda: Keeper(vault.key_file)).code is Code.CONFIGURATION


# -- erasing -------------------------------------------------------------------------------------------


def test_what_is_erased_is_gone_and_its_entry_and_everybody_elses_statements_stay(vault: Vault):
    signed = [vault.world.node.receipt("acme") for _ in range(3)]
    mine = vault.put(*signed)
    another = vault.world.node.receipt("bolt")
    (other,) = vault.put(another)
    before = vault.world.rows("SELECT index, entry FROM log_entries ORDER BY index")
    vault.trail.deposit(mine[0], made.delivered(signed[0]))
    vault.trail.deposit(other, made.delivered(another))
    value = vault.erase()
    assert (value.tenant, value.statements) == ("acme", 3)
    assert value.entries == entries_digest(mine)
    for entry in mine:
        assert refused(lambda e=entry: vault.read(e)).code is Code.ERASED
        row = vault.trail.statement(entry)
        assert row is not None
        assert row.raw == b""
    assert vault.read(other)
    assert vault.world.rows("SELECT receipt FROM trail_evidence") == [(other,)]
    after = vault.world.rows("SELECT index, entry FROM log_entries ORDER BY index")
    assert after[:-1] == before
    ((logged,),) = vault.world.rows("SELECT raw FROM trail_statements WHERE type = 'erasure'")
    assert open_as(Erasure, logged, made.public("authority"))[0] == value
    assert vault.fsck() == []
    ((orders,),) = vault.world.rows("SELECT count(*) FROM trail_orders WHERE tenant = 'acme'")
    assert orders == 3


def test_an_old_copy_of_the_database_opens_nothing_once_the_key_file_was_replaced(vault: Vault):
    (entry,) = vault.put(vault.world.node.receipt("acme"))
    backup = vault.world.rows("SELECT id, wrapped FROM trail_data_keys")
    vault.erase()
    for number, wrapped in backup:
        vault.world.rows("UPDATE trail_data_keys SET wrapped = %s WHERE id = %s", wrapped, number)
    assert refused(lambda: vault.read(entry)).code is Code.CONFIGURATION
    assert any("exists again" in line for line in vault.fsck())


def test_what_comes_for_an_erased_day_later_is_stored_under_a_new_key_and_can_be_erased_too(
    vault: Vault,
):
    vault.put(vault.world.node.receipt("acme"))
    vault.erase()
    (late,) = vault.put(vault.world.node.receipt("acme"))
    assert vault.read(late)
    assert vault.fsck() == []
    assert vault.erase().entries == entries_digest([late])
    assert refused(lambda: vault.read(late)).code is Code.ERASED
    assert refused(vault.erase).code is Code.NOT_FOUND
    assert vault.fsck() == []


def test_a_server_that_runs_while_the_key_is_replaced_keeps_writing_and_reading(vault: Vault):
    with opened(vault.elsewhere()) as running:
        running.submit([vault.world.node.receipt("bolt")])
        vault.put(vault.world.node.receipt("acme"))
        vault.erase()
        results = running.submit(
            [vault.world.node.receipt("bolt"), vault.world.node.receipt("acme")]
        )
    for result in results:
        assert isinstance(result, Accepted)
        assert vault.read(result.entry)
    assert vault.fsck() == []


@pytest.mark.parametrize("point", ["submit", "begin_rotation", "end_rotation"])
def test_an_erasure_that_is_interrupted_is_finished_by_the_next_and_logged_once(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, point: str
):
    (entry,) = vault.put(vault.world.node.receipt("acme"))
    (other,) = vault.put(vault.world.node.receipt("bolt"))

    def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Trail if point == "submit" else Keeper, point, crash)
        with pytest.raises(RuntimeError):
            vault.erase()
    eraser = Eraser(vault.elsewhere(), vault.trail, made.key("authority"), name="authority")
    assert eraser.resume(LATER) == 1
    assert eraser.resume(LATER) == 0
    assert refused(lambda: vault.read(entry)).code is Code.ERASED
    assert vault.read(other)
    assert vault.world.rows("SELECT count(*) FROM trail_statements WHERE type = 'erasure'") == [
        (1,)
    ]
    assert len(vault.key_file.read_text().split()) == 1
    assert vault.fsck() == []


def test_only_whole_days_that_are_over_are_erased_and_only_with_a_key_file(vault: Vault):
    eraser = Eraser(vault.engine, vault.trail, made.key("authority"), name="authority")
    plain = Eraser(
        vault.world.database.engine("server"), vault.world.trail, made.key("authority"), name="a"
    )
    asked = {"reason": "r", "requested_by": "b"}
    for period, now in ((TODAY, TODAY.end - 1), (Period(TODAY.start, TODAY.end - 1), LATER)):
        error = refused(lambda p=period, n=now: eraser.erase("acme", p, now=n, **asked))
        assert error.code is Code.INVALID_ARGUMENT
    assert (
        refused(lambda: plain.erase("acme", TODAY, now=LATER, **asked)).code is Code.CONFIGURATION
    )


def test_fsck_notices_a_missing_erasure_statement_and_one_that_says_something_else(vault: Vault):
    vault.put(vault.world.node.receipt("acme"))
    vault.erase()
    ((raw,),) = vault.world.rows("SELECT statement FROM trail_erasures")
    value = open_as(Erasure, raw, None)[0]
    other = sign(replace(value, statements=2), key=made.key("authority"), issuer="authority")
    vault.world.rows("UPDATE trail_erasures SET statement = %s", other)
    assert any("not in the log" in line for line in vault.fsck())
    vault.put(Submission(other))
    assert any("not those that it names" in line for line in vault.fsck())
    vault.world.rows("UPDATE trail_erasures SET statement = %s", raw)
    vault.world.rows("UPDATE trail_data_keys SET erasure = NULL, wrapped = 'x' WHERE true")
    assert vault.fsck()


# -- around it -----------------------------------------------------------------------------------------


def test_findings_lose_their_copies_of_what_is_erased_and_keep_what_they_say(vault: Vault):
    first, _, third = (vault.world.node.receipt("acme") for _ in range(3))
    vault.put(first, third)
    receipt, _ = open_as(Receipt, first.statement, None)
    twin = sign(
        replace(receipt, ended=receipt.ended + 1),
        key=made.key("alpha/one"),
        issuer="alpha/one",
    )
    vault.trail.submit([Submission(twin, first.order)])
    GapWatch(vault.engine, grace_ms=0).look(made.NOW + DAY_MS)
    found = {row.kind: row for row, _ in vault.trail.findings()}
    assert found["equivocation"].second_statement == twin
    assert {row.kind for row, _ in vault.trail.findings()} == {"equivocation", "gap"}
    ((stored,),) = vault.world.rows(
        "SELECT second_statement FROM trail_findings WHERE kind = 'equivocation'"
    )
    assert twin[40:80] not in stored
    vault.erase()
    for row, _ in Trail(vault.elsewhere(), vault.trail._batcher, frozenset()).findings():
        assert (row.first_statement, row.second_statement) == (b"", b"")
        assert row.detail


def test_the_books_rate_what_is_encrypted_and_skip_what_was_erased(vault: Vault):
    vault.put(vault.world.node.receipt("acme"))
    assert Costs(vault.elsewhere()).rate_new() == 1
    vault.put(vault.world.node.receipt("acme"), vault.world.node.receipt("bolt"))
    vault.erase()
    assert Costs(vault.elsewhere()).rate_new() == 2
    rated = vault.world.rows("SELECT billable, reason FROM costs_rated_receipts ORDER BY log_index")
    assert rated == [(True, None), (False, "erased"), (True, None)]


def test_a_verdict_about_an_erased_receipt_is_refused_as_erased(vault: Vault):
    (entry,) = vault.put(vault.world.node.receipt("acme"))
    vault.put(Submission(made.verdict(entry)))
    vault.erase()
    value, _ = open_as(Verdict, made.verdict(entry), None)
    second = sign(replace(value, at=value.at + 1), key=made.key("worker"), issuer="worker")
    with opened(vault.elsewhere()) as other:
        again, refusal = other.submit([Submission(made.verdict(entry)), Submission(second)])
    assert isinstance(again, Accepted)
    assert again.duplicate
    assert isinstance(refusal, Refused)
    assert refusal.error.code is Code.ERASED
    assert vault.fsck() == []


def test_an_audit_of_an_erased_receipt_ends_without_a_verdict(vault: Vault):
    (entry,) = vault.put(vault.world.node.receipt("acme"))
    engine = with_keeper(vault.world.database.engine("worker"), vault.key_file)
    row = court.assign(engine, entry)
    vault.erase()
    with court.worker(engine, court.FakeAuditServer(vault.trail), ["false"]) as worker:
        assert worker.run(row) == "erased"
        assert worker.run(row) == "not due"
    assert vault.world.rows("SELECT outcome, done_at IS NULL FROM replay_work") == [(None, False)]


def test_two_erasures_do_not_run_at_once(vault: Vault):
    vault.put(vault.world.node.receipt("acme"))
    with vault.world.database.engine("server").connect() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_lock({ERASE_LOCK})")
        assert refused(vault.erase).code is Code.CONFLICT
        other.exec_driver_sql(f"SELECT pg_advisory_unlock({ERASE_LOCK})")
    assert vault.erase().statements == 1


def test_the_old_key_is_kept_while_anything_is_wrapped_under_it(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
):
    """Whatever went wrong: no key is destroyed that is still needed."""
    (entry,) = vault.put(vault.world.node.receipt("bolt"))
    vault.put(vault.world.node.receipt("acme"))
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "wrap", lambda _self, key, *_: b"another!" + bytes(12) + key)
        assert refused(vault.erase).code is Code.CONFLICT
    assert len(vault.key_file.read_text().split()) == 2
    assert entry


def test_lists_of_receipts_say_which_were_erased(vault: Vault):
    vault.put(vault.world.node.receipt("acme"))
    vault.erase()
    (line,) = holdings(vault.elsewhere(), "acme", TODAY, limit=9, statements=True).unsealed
    assert (line.statement, line.erased) == (None, True)
    (line,) = holdings(vault.elsewhere(), "acme", TODAY, limit=9).unsealed
    assert (line.statement, line.erased) == (None, False)


def test_an_engine_without_a_key_file_is_the_engine_itself(vault: Vault):
    plain = vault.world.database.engine("server")
    assert with_keeper(plain, None) is plain
    with session(plain) as db:
        assert keeper_of(db) is None
    with session(vault.engine, isolation="REPEATABLE READ") as db:
        assert keeper_of(db) is not None
