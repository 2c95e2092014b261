"""`cost fsck` over closed periods and the ledger: every kind of damage is named."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from audit_layer.costs.check import check_books
from audit_layer.costs.ledger.operations import Operation
from shared.statements.cose import open_as, sign
from shared.statements.periods import PeriodSeal
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.keeping import Keeping, keeping_over
from tests.audit_layer.costs.test_books import _fields
from tests.postgres import PostgresServer

SEALED = "UPDATE costs_period_events SET {} WHERE state = 'closed' AND period = 1"
DAMAGE = {
    # what is booked where
    "UPDATE costs_rated_receipts SET period = 2 WHERE period = 1 AND number = 1": "period 1: it has 2 lines, but its seal has 3",
    "UPDATE costs_rated_receipts SET period = 3 WHERE number = 1": "is booked in a period that is not its own",
    "UPDATE costs_corrections SET period = 3 WHERE period = 2": "is corrected in a period that is not its own",
    "UPDATE costs_corrections SET period = 1 WHERE period = 2": "period 1: its lines are not those of its seal",
    'UPDATE costs_periods SET "end" = "end" + 1 WHERE id = 1': "billing periods 1 and 2 overlap",
    "UPDATE costs_periods SET start = start - 1 WHERE id = 1": "period 1: start is not the seal's",
    "UPDATE costs_periods SET time_zone = 'UTC' WHERE id = 1": "period 1: time_zone is not the seal's",
    "UPDATE costs_periods SET tenant = 'bolt' WHERE id = 1": "period 1: tenant is not the seal's",
    # seals
    SEALED.format("root = sha256('x')"): "period 1: the root beside its seal is not the seal's",
    SEALED.format("bill = convert_to(replace(convert_from(bill, 'UTF8'), '\"held\":\"0\"', '\"held\":\"1\"'), 'UTF8')"):
        "period 1: its bill is not the one that its seal names",
    SEALED.format("bill = '{}'"): "period 1: its bill cannot be computed again",
    SEALED.format("bill = convert_to(replace(convert_from(bill, 'UTF8'), '\"contract\":\"', '\"contract\":\"00'), 'UTF8')"):
        "terms that are not in the books",
    SEALED.format("statement = 'x'"): "period 1: its seal cannot be read",
    SEALED.format("at = at + 1"): "period 1: at is not the seal's",
    "UPDATE log_state SET size = 1": "does not cover its lines, or the log is smaller",
    "DELETE FROM costs_period_events WHERE period = 1 AND state = 'closing'": "event 2 makes it closed, but it was soft-closed",
    "INSERT INTO costs_period_events (period, turn, state, at, by) VALUES (1, 3, 'open', 1, 'x')":
        "makes it open, but it was closed",
    "DELETE FROM costs_period_events WHERE period = 1": "the log has a period seal that the books do not have",
    # the terms of a closed bill
    "UPDATE costs_contracts SET digest = sha256('x')": "terms that are not in the books",
    "UPDATE costs_contracts SET document = convert_to(replace(convert_from(document, 'UTF8'), '0.001', '0.002'), 'UTF8')":
        "period 1: its bill is not what its lines and terms come to",
    # journals
    "UPDATE costs_journals SET key = 'close 77' WHERE key = 'close 1'": "the journal 'close 77' is of no closed period",
    "UPDATE costs_postings p SET amount = 2 * amount FROM costs_journals j WHERE j.id = p.journal AND j.key = 'close 1'":
        "period 1: its journal is not what its bill posts",
    "UPDATE costs_journals SET operator = 'beta' WHERE key = 'close 1'": "period 1: its journal is not what its bill posts",
    "UPDATE costs_journals SET kind = 'gift' WHERE kind = 'prepay'": "is of no known kind",
    "UPDATE costs_journals SET kind = 'settle' WHERE kind = 'prepay' AND mirrors IS NULL": "does not post what settle does",
    "UPDATE costs_journals SET tenant = 'bolt' WHERE kind = 'prepay'": "does not post what prepay does",
    "UPDATE costs_journals SET postings = 3 WHERE kind = 'prepay'": "has 2 postings, but 3 were made",
    "UPDATE costs_postings SET amount = amount + 1 WHERE account = 'escrow:acme'": "does not balance: it is off by 1",
    "UPDATE costs_postings SET amount = -amount WHERE account IN ('escrow:acme', 'cash:acme')": "account escrow:acme has less",
    "UPDATE costs_postings p SET amount = 2 * amount FROM costs_journals j WHERE j.id = p.journal AND mirrors IS NOT NULL":
        "does not mirror journal",
    "UPDATE costs_journals SET mirrors = (SELECT min(id) FROM costs_journals WHERE kind = 'usage') WHERE mirrors IS NOT NULL":
        "which is not mirrored by hand",
    "UPDATE costs_rated_receipts SET journal = (SELECT max(id) FROM costs_journals) WHERE number = 1":
        "does not post what its receipts come to",
    "UPDATE costs_postings p SET account = 'expense:bolt' FROM costs_journals j WHERE j.id = p.journal AND j.kind = 'usage'"
    " AND account = 'expense:acme'": "does not post what its receipts come to",
}  # fmt: skip
"""Damage to books with three periods: 1 and 2 of acme with alpha, 1 closed, and 3 of acme with beta."""


@pytest.fixture(scope="module")
def keeping(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keeping]:
    with keeping_over(postgres, tmp_path_factory.mktemp("books")) as found:
        found.contract(time_zone="Europe/Berlin", per_request="0.001")
        receipts = [found.serve(number) for number in range(3)]
        found.scene.catch_up()
        for key, amount in (("one", "5"), ("two", "3")):
            number = found.books.operate(
                Operation.PREPAY, key=key, amount=Decimal(amount), currency="EUR", tenant="acme"
            )
        found.books.mirror(number, memo="mistaken")
        found.close(found.periods()[0])
        found.serve(3)
        found.scene.convict(receipts[0])
        found.scene.catch_up()
        found.serve(4, node=1)
        found.scene.catch_up()
        yield found


def damaged(keeping: Keeping, *statements: str, **values: object) -> list[str]:
    """Return what the check finds after some damage, which is undone."""
    with keeping.world.database.engine("owner").connect() as connection:
        for table in ("costs_period_events", "costs_rated_receipts", "costs_corrections", "costs_periods"):  # fmt: skip
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        for statement in statements:
            connection.execute(text(statement.replace(':"', '\\:"')), values)
        found = list(check_books(Session(bind=connection)))
        connection.rollback()
    return found


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_check_names_what_was_damaged(keeping: Keeping, damage: str):
    found = damaged(keeping, damage)
    assert any(DAMAGE[damage] in finding for finding in found), found


def test_the_check_finds_nothing_in_sound_books(keeping: Keeping):
    assert damaged(keeping) == []


@pytest.mark.parametrize(
    ("change", "signer", "finding"),
    [
        ({"lines": 4}, "authority", "it has 3 lines, but its seal has 4"),
        ({"root": bytes(32)}, "authority", "its lines are not those of its seal"),
        ({"bill": bytes(32)}, "authority", "its bill is not the one that its seal names"),
        ({"previous": made.some("x")}, "authority", "does not name the seal before it"),
        ({"size": 2**40}, "authority", "does not cover its lines, or the log is smaller"),
        ({"currency": "USD"}, "authority", "currency is not the seal's"),
        ({}, "alpha", "is not signed by the audit authority"),
    ],
)
def test_the_check_finds_a_seal_that_says_something_else(
    keeping: Keeping, change: dict[str, object], signer: str, finding: str
):
    (number, *_) = keeping.periods(operator="alpha")
    seal, _ = open_as(PeriodSeal, keeping.sealed(number)[1], None)
    forged = sign(
        PeriodSeal(**{**_fields(seal), **change}), key=made.key(signer), issuer="authority"
    )
    found = damaged(keeping, SEALED.format("statement = :forged"), forged=forged)
    assert any(finding in one for one in found), found
    assert any("the log has a period seal" in one for one in found)
