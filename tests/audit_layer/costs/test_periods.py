"""Which period holds a time: the month of the contract's zone, whatever its clocks do, and never one that is closed."""

import json
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from audit_layer.costs.contracts import store
from audit_layer.costs.models import PeriodEventRow, PeriodRow
from audit_layer.costs.periods import Periods
from audit_layer.storage.engine import session
from tests.postgres import Database

HOUR = 3_600_000
EUR = ("acme", "alpha", "EUR")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def contract(db: Session, zone: str, *, first: str = "1970-01-01", end: str | None = None) -> None:
    terms = {"tenant": "acme", "operator": "alpha", "valid_from": first, "valid_to": end, "time_zone": zone}  # fmt: skip
    store.record(db, json.dumps(terms).encode(), by="finance")


def holding(db: Session, at: int, parties: tuple[str, str, str] = EUR) -> PeriodRow:
    return db.get_one(PeriodRow, Periods(db).holding(*parties, at))


def closed(db: Session, row: PeriodRow) -> None:
    """Close a period in its row alone."""
    db.add(PeriodEventRow(
        period=row.id, turn=0, state="closed", at=1, by="x", root=bytes(32), statement=b"s", bill=b"b",
    ))  # fmt: skip
    db.flush()


@pytest.mark.parametrize(
    ("zone", "at", "start", "end"),
    [
        ("UTC", "2026-03-31T23:59:59.999Z", "2026-03-01T00:00Z", "2026-04-01T00:00Z"),
        ("Europe/Berlin", "2026-03-31T21:59:59.999Z", "2026-02-28T23:00Z", "2026-03-31T22:00Z"),
        ("Europe/Berlin", "2026-03-31T22:00Z", "2026-03-31T22:00Z", "2026-04-30T22:00Z"),
        ("Europe/Berlin", "2026-10-31T22:59:59.999Z", "2026-09-30T22:00Z", "2026-10-31T23:00Z"),
        ("America/New_York", "2026-11-01T03:59:59.999Z", "2026-10-01T04:00Z", "2026-11-01T04:00Z"),
        ("America/New_York", "2026-11-30T23:00Z", "2026-11-01T04:00Z", "2026-12-01T05:00Z"),
        ("Asia/Kolkata", "2026-04-30T18:29:59.999Z", "2026-03-31T18:30Z", "2026-04-30T18:30Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00Z", "2026-03-31T13:00Z", "2026-04-30T13:30Z"),
        ("Pacific/Kiritimati", "2026-12-31T10:00Z", "2026-12-31T10:00Z", "2027-01-31T10:00Z"),
    ],
)  # fmt: skip
def test_a_period_is_the_month_of_the_contracts_zone(
    database: Database, zone: str, at: str, start: str, end: str
):
    with session(database.engine("server")) as db:
        contract(db, zone)
        row = holding(db, ms(at))
        assert (row.start, row.end, row.time_zone) == (ms(start), ms(end), zone)


def test_a_month_with_a_change_of_clocks_is_an_hour_shorter_or_longer(database: Database):
    with session(database.engine("server")) as db:
        contract(db, "Europe/Berlin")
        march, october = holding(db, ms("2026-03-15T00:00Z")), holding(db, ms("2026-10-15T00:00Z"))
        assert march.end - march.start == (31 * 24 - 1) * HOUR
        assert october.end - october.start == (31 * 24 + 1) * HOUR


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"])  # fmt: skip
times = st.integers(ms("2025-10-01T00:00Z"), ms("2027-02-01T00:00Z"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=zones, then=zones, at=st.lists(times, min_size=1, max_size=12), data=st.data())
def test_every_time_has_one_period_and_none_overlap_even_when_the_zone_changes(
    database: Database, first: str, then: str, at: list[int], data: st.DataObject
):
    with session(database.engine("server")) as db:
        if first != then:
            contract(db, first, end="2026-06-01")
            contract(db, then, first="2026-06-02")
        placed = {time: holding(db, time) for time in at}
        rows = sorted({row.id: row for row in placed.values()}.values(), key=lambda row: row.start)
        assert all(row.start <= time < row.end for time, row in placed.items())
        assert all(a.end <= b.start for a, b in pairwise(rows))
        for row in rows:
            day = datetime.fromtimestamp(row.start / 1000, UTC).astimezone(ZoneInfo(row.time_zone))
            last = datetime.fromtimestamp((row.end - 1) / 1000, UTC).astimezone(day.tzinfo)
            assert (day.year, day.month) == (last.year, last.month)
        shut = data.draw(st.integers(0, len(rows) - 1))
        for row in rows[: shut + 1]:
            closed(db, row)
        for time in at:
            row = holding(db, time)
            assert row.start >= rows[shut].end, "nothing is booked into or before what is closed"
            assert time < row.end
            assert time >= row.start or time < rows[shut].end
        db.rollback()


def test_what_belongs_before_a_closed_period_is_booked_after_it_even_where_no_period_was(
    database: Database,
):
    """Otherwise a second first period would come into being, with a seal and credits of its own."""
    with session(database.engine("server")) as db:
        october = holding(db, ms("2026-10-15T00:00Z"))
        closed(db, october)
        late = holding(db, ms("2026-08-03T00:00Z"))
        assert (late.start, late.end) == (ms("2026-11-01T00:00Z"), ms("2026-12-01T00:00Z"))
        assert holding(db, ms("2026-08-03T00:00Z"), ("acme", "alpha", "USD")).start == ms("2026-08-01T00:00Z")  # fmt: skip
        assert holding(db, ms("2026-08-03T00:00Z"), ("bolt", "alpha", "EUR")).start == ms("2026-08-01T00:00Z")  # fmt: skip
