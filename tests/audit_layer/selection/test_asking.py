"""What tenants ask for becomes work beside the draws: once, soon enough, within limits, whatever the authority stumbles over."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit_layer.replay.due_case import load_case
from audit_layer.replay.models import WorkRow
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.verdicts import Reason
from tests.audit_layer.api import statements as made
from tests.audit_layer.selection import test_authority
from tests.audit_layer.selection.test_authority import THREE_PEERS, Clock, finish
from tests.audit_layer.trail.conftest import world
from tests.vectors.samples import hpke_key

__all__ = ["make", "world"]
make = test_authority.make
TENANT = DisclosureReason.TENANT


@pytest.fixture
def clock(make: Callable[..., Clock]) -> Clock:
    """An epoch is open; nothing is drawn by the rate."""
    found = make(rate_ppm=0, floor=0, max_asked_per_day=2)
    found.step()
    return found


def ask(clock: Clock, receipt: bytes, tenant: str = "acme", *, at: int = made.NOW) -> bytes:
    """Hand an audit request in; return its entry."""
    (logged,) = clock.world.put(Submission(made.audit_request(receipt, tenant, at=at)))
    return logged.entry


def asked_work(clock: Clock) -> list[WorkRow]:
    return [row for row in clock.work() if row.kind.startswith("asked")]


def left(clock: Clock) -> list[str | None]:
    rows = clock.world.rows("SELECT left_why FROM replay_asked ORDER BY log_index")
    return [why for (why,) in rows]


def test_what_a_tenant_asks_for_is_requested_in_the_log_and_assigned_once(clock: Clock):
    (receipt,) = clock.receipts(1)
    audit = ask(clock, receipt)
    for _ in range(3):
        clock.step()
    (row,), (request,) = asked_work(clock), clock.logged(DisclosureRequest)
    assert (row.receipt, row.kind, row.epoch) == (receipt, "asked", None)
    assert (request.receipt, request.draw, request.reason) == (receipt, audit, TENANT)
    assert request.recipient == hpke_key(row.worker).key_id
    assert request.deadline == row.deadline > clock.now
    case = load_case(clock.engine, row)
    assert set(case.ground.witnessed) == {"audit"}
    assert entry_of(case.ground.witnessed["audit"]) == audit
    assert case.first_verdict is None


def test_a_draw_replays_what_a_tenant_asked_for_all_the_same_and_by_another_worker(
    make: Callable[..., Clock],
):
    """Nobody can keep a receipt out of the draw, or have its verdict given beforehand."""
    clock = make(rate_ppm=1_000_000)
    clock.step()
    before, after = clock.receipts(2)
    ask(clock, before)
    clock.step()
    finish(clock, asked_work(clock)[0], Reason.EXACT)
    clock.epoch()
    ask(clock, after)
    clock.step()
    of = {(row.receipt, row.kind): row for row in clock.work()}
    assert set(of) == {(r, kind) for r in (before, after) for kind in ("asked", "primary")}
    for receipt in (before, after):
        asked, drawn = of[receipt, "asked"], of[receipt, "primary"]
        assert asked.worker != drawn.worker
        assert drawn.done_at is None
        assert read_as(DisclosureRequest, drawn.request_statement).reason is DisclosureReason.DRAW


@pytest.mark.parametrize("differs", [False, True])
def test_what_blames_a_node_is_put_before_other_workers_under_the_same_audit_request(
    clock: Clock, differs: bool
):
    object.__setattr__(clock.authority, "peers", THREE_PEERS)
    (receipt,) = clock.receipts(1)
    audit = ask(clock, receipt)
    clock.step()
    (first,) = asked_work(clock)
    finish(clock, first, Reason.TOKENS)
    for _ in range(2):
        clock.step()
    _, second = asked_work(clock)
    finish(clock, second, Reason.EXACT if differs else Reason.STREAM)
    for _ in range(2):
        clock.step()
    rows = asked_work(clock)
    kinds = ["asked", "asked-confirm", *(["asked-third"] if differs else [])]
    assert [row.kind for row in rows] == kinds
    assert len({row.worker for row in rows}) == len(rows)
    requests = [read_as(DisclosureRequest, row.request_statement) for row in rows]
    assert {request.draw for request in requests} == {audit}
    assert {request.reason for request in requests[1:]} == {DisclosureReason.CONFIRM}
    assert load_case(clock.engine, second).first_verdict == b"verdict"


def test_an_audit_is_answered_once_however_often_it_is_asked_for(clock: Clock):
    (receipt,) = clock.receipts(1)
    for at in range(3):
        ask(clock, receipt, at=made.NOW + at)
    clock.step()
    ask(clock, receipt, at=made.NOW + 3)
    clock.step()
    assert len(asked_work(clock)) == 1
    assert left(clock) == [None, "again", "again", "again"]


def test_a_tenant_that_asks_beyond_its_limit_waits_and_others_do_not(clock: Clock):
    *entries, other = clock.receipts(4)
    (bolts,) = (item.entry for item in clock.world.put(clock.world.node.receipt("bolt")))
    for receipt in entries:
        ask(clock, receipt)
    ask(clock, bolts, "bolt")
    clock.step()
    assert left(clock) == [None, None, "limit", None]
    clock.now += 86_400_001
    ask(clock, other)
    ask(clock, entries[2], at=made.NOW + 1)
    clock.step()
    assert left(clock)[4:] == [None, None]


def test_what_is_asked_for_too_late_is_left(clock: Clock):
    """The node need not have its evidence any more, and could not defend itself."""
    (receipt,) = clock.receipts(1)
    clock.world.rows(
        "UPDATE trail_statements SET recorded_at = recorded_at - 86400001 WHERE entry = %s", receipt
    )
    ask(clock, receipt)
    clock.step()
    assert (left(clock), asked_work(clock)) == (["late"], [])


def test_nobody_asks_for_anothers_receipt(clock: Clock):
    (receipt,) = clock.receipts(1)
    assert clock.world.code(made.audit_request(receipt, "bolt")) is Code.NOT_FOUND
    clock.step()
    assert asked_work(clock) == []


def test_an_authority_that_dies_between_keeping_and_sending_sends_the_same_bytes_later(
    clock: Clock,
):
    (receipt,) = clock.receipts(1)
    ask(clock, receipt)

    def die(types: list[str]) -> None:
        if "disclosure-request" in types:
            raise CounterfoilError(Code.UNAVAILABLE, "killed here")

    clock.server.before = die
    for _ in range(2):
        with pytest.raises(CounterfoilError):
            clock.authority.tick(clock.now)
    assert clock.logged(DisclosureRequest) == []
    clock.server.before = lambda _types: None
    for _ in range(2):
        clock.step()
    (row,) = asked_work(clock)
    assert clock.logged(DisclosureRequest) == [read_as(DisclosureRequest, row.request_statement)]


def test_two_ticks_at_once_answer_once(clock: Clock):
    for receipt in clock.receipts(2):
        ask(clock, receipt)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: clock.authority.tick(clock.now), range(4)))
    clock.step()
    assert len(asked_work(clock)) == len(clock.logged(DisclosureRequest)) == 2
