"""Contracts in the books: they never overlap, replace one another by name, and leave closed bills alone."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.contracts.store import Contract, terms_at
from audit_layer.storage.engine import session
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.keeping import Keeping, keeping_over
from tests.postgres import Database, PostgresServer

DAY = 86_400_000


@pytest.fixture
def books(database: Database) -> Bookkeeping:
    return Bookkeeping(database.engine("server"))


@pytest.fixture
def keeping(postgres: PostgresServer, tmp_path: Path) -> Iterator[Keeping]:
    with keeping_over(postgres, tmp_path) as found:
        yield found


def record(
    books: Bookkeeping, first: str, end: str | None = None, *, supersedes: int | None = None, **more: Any
) -> Contract:  # fmt: skip
    terms = {"tenant": "acme", "operator": "alpha", "valid_from": first, "valid_to": end, **more}
    return books.record_contract(json.dumps(terms).encode(), by="finance", supersedes=supersedes)


def in_force(database: Database, day: int) -> str | None:
    """Return the minimum of the terms in force on a day after 1970-01-01."""
    with session(database.engine("server")) as db:
        minimum = terms_at(db, "acme", "alpha", day * DAY).minimum
    return f"{minimum:f}" if minimum else None


def test_terms_that_overlap_are_refused_and_those_that_adjoin_are_not(books: Bookkeeping):
    record(books, "1970-02-01", "1970-03-01")
    overlapping = [
        ("1970-01-01", "1970-02-02"), ("1970-02-28", None), ("1970-02-10", "1970-02-11"), ("1970-01-01", None),
    ]  # fmt: skip
    for first, end in overlapping:
        with pytest.raises(CounterfoilError, match="overlaps") as caught:
            record(books, first, end)
        assert caught.value.code is Code.CONFLICT
    record(books, "1970-03-01")
    record(books, "1970-01-01", "1970-02-01")
    record(books, "1970-01-01", tenant="bolt")
    record(books, "1970-01-01", operator="beta")
    assert len(books.contracts(tenant="acme")) == 4


def test_what_supersedes_terms_takes_their_place_and_nothing_else(
    books: Bookkeeping, database: Database
):
    first = record(books, "1970-01-01", "1970-01-31", minimum="1")
    second = record(books, "1970-01-31", minimum="2")
    third = record(books, "1970-01-11", "1970-01-31", minimum="3", supersedes=first.id)
    assert [in_force(database, day) for day in (0, 9, 10, 29, 30)] == [None, None, "3", "3", "2"]
    with pytest.raises(CounterfoilError, match="superseded already") as caught:
        record(books, "1970-01-01", "1970-01-05", supersedes=first.id)
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(CounterfoilError, match="overlaps"):
        record(books, "1970-01-01", minimum="9", supersedes=third.id)
    with pytest.raises(CounterfoilError, match="no contract 77") as caught:
        record(books, "1980-01-01", "1980-01-02", supersedes=77)
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(CounterfoilError) as caught:
        record(books, "1970-01-01", supersedes=second.id, tenant="bolt")
    assert caught.value.code is Code.CONFLICT
    chain = [(c.supersedes, c.superseded_by) for c in books.contracts()]
    assert chain == [(None, third.id), (None, None), (first.id, None)]


def test_the_same_terms_again_are_the_same_contract_and_never_a_silent_return_to_old_ones(
    books: Bookkeeping, database: Database
):
    first = record(books, "1970-01-01", minimum="1")
    assert record(books, "1970-01-01", minimum="1").id == first.id
    second = record(books, "1970-01-01", minimum="2", supersedes=first.id)
    assert record(books, "1970-01-01", minimum="2", supersedes=first.id).id == second.id
    assert record(books, "1970-01-01", minimum="1").superseded_by == second.id
    with pytest.raises(CounterfoilError, match=f"contract {first.id}, which contract {second.id} superseded"):  # fmt: skip
        record(books, "1970-01-01", minimum="1", supersedes=second.id)
    assert in_force(database, 5) == "2"


def test_of_two_overlapping_contracts_at_once_the_database_takes_one(database: Database):
    """One was checked and is not committed when the other is checked: neither sees the other's row, so it has to wait."""
    insert = (
        "INSERT INTO costs_contracts (tenant, operator, valid_from, valid_to, document, digest, recorded_at, recorded_by)"
        " VALUES ('acme', 'alpha', %s, %s, '{}', sha256(%s), 1, 'x')"
    )
    refused: list[Exception] = []

    def commit(connection: psycopg.Connection) -> None:
        try:
            connection.commit()
        except psycopg.errors.ExclusionViolation as error:
            refused.append(error)

    with psycopg.connect(database.server_dsn) as one, psycopg.connect(database.server_dsn) as two:
        one.execute(insert.encode(), (0, 60, b"one"))
        one.execute("SET CONSTRAINTS costs_contracts_alone IMMEDIATE")
        two.execute(insert.encode(), (59, 100, b"two"))
        waiting = threading.Thread(target=commit, args=(two,))
        waiting.start()
        waiting.join(
            0.3
        )  # time for a mistake: without the wait, the second would be committed by now
        one.commit()
        waiting.join(60)
    assert len(refused) == 1
    with psycopg.connect(database.owner_dsn) as owner:
        rows = owner.execute("SELECT valid_to FROM costs_contracts").fetchall()
    assert rows == [(60,)]


def test_terms_of_the_past_change_an_open_periods_bill_and_never_a_closed_one(keeping: Keeping):
    keeping.serve(0)
    keeping.scene.catch_up()
    closed = keeping.periods()[-1]
    agreed = keeping.contract(minimum="5")
    assert keeping.close(closed).total == 5
    keeping.serve(1)
    keeping.scene.catch_up()
    opened = keeping.periods()[-1]
    assert keeping.books.bill(opened).total == 5
    before = keeping.sealed(closed)
    keeping.contract(minimum="7", per_request="1", supersedes=agreed)
    assert keeping.books.bill(opened).total == 7
    assert keeping.books.bill(closed).total == 5
    assert keeping.books.bill(closed).document() == before[2]
    charges = [c for c in keeping.books.charges(closed) if c.receipt is None]
    assert sum(c.amount for c in charges) == 5 - Decimal("0.019")
    assert keeping.sealed(closed) == before
    assert keeping.scene.books.costs.check() == []


def test_a_period_closed_without_a_contract_keeps_its_bill_when_one_comes_for_its_time(
    keeping: Keeping,
):
    keeping.serve(0)
    keeping.scene.catch_up()
    (closed,) = keeping.periods()
    keeping.close(closed)
    keeping.contract(minimum="5", valid_from="2020-01-01")
    assert keeping.books.bill(closed).total == Decimal("0.02")
    assert keeping.scene.books.costs.check() == []


def test_gpu_seconds_requests_and_cached_input_are_billed_from_receipts(keeping: Keeping):
    keeping.contract(
        per_request="0.5", per_gpu_second="2", cached="as-input", rounding={"digits": 6},
        discounts=[{"kind": "output", "model": made.MODEL.hex(), "tiers": [{"above": "0", "percent": "50"}]}],
    )  # fmt: skip
    keeping.serve(0, tokens=10, cached=4, compute_ms=1500)
    keeping.serve(1, tokens=20, compute_ms=250)
    keeping.scene.catch_up()
    bill = keeping.books.bill(keeping.periods()[0])
    # usage: 1 × 1 + 4 × 0.5 + 10 × 2 and 5 × 1 + 20 × 2, per thousand
    assert bill.usage == Decimal("0.068")
    assert [(c.kind.value, c.amount) for c in bill.charges] == [
        ("fee", Decimal("0.002")), ("request", Decimal(1)), ("gpu-second", Decimal("3.5")), ("discount", Decimal("-0.03")),
    ]  # fmt: skip
