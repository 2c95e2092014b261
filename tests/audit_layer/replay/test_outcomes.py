"""Every reason that a verdict can have gets from where it arises into the log; nothing loops forever."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit_layer.disclosure.service import Disclosed
from audit_layer.replay import work_list
from audit_layer.replay import worker as worker_module
from audit_layer.replay.lease import ENOUGH, MARGIN
from audit_layer.replay.models import WorkRow
from audit_layer.replay.worker import MAX_FAILURES, MAX_WHY
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from shared.codec import cbor
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable
from shared.statements.cose import entry_of, open_as, read_as, sign
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from shared.verification.judgement import Judgement
from tests.audit_layer.api import statements as made
from tests.audit_layer.replay import fake_child
from tests.audit_layer.replay.court import FakeAuditServer, assign, row_of, worker
from tests.audit_layer.replay.waiting import until
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]
KIND = (made.MODEL, made.PROFILE)
BY_THE_JUDGE = [
    reason
    for reason in Reason
    if reason.blame is not Blame.CHAIN  # of a chain of nodes only: `test_chain_worker`
    and reason not in {Reason.ORDER, Reason.WITHHELD, Reason.UNAVAILABLE, Reason.UNREPLAYABLE}
]


def verdicts(world: World) -> list[Verdict]:
    rows = world.rows("SELECT raw FROM trail_statements WHERE type = 'verdict' ORDER BY log_index")
    return [open_as(Verdict, raw, made.public("worker"))[0] for (raw,) in rows]


def answering(judgement: Judgement) -> list[str]:
    """Return the command of a replay process that finds this, whatever the case."""
    return saying({"judgement": judgement.to_bytes()})


def saying(message: cbor.Value) -> list[str]:
    """Return the command of a replay process that answers every case with this message."""
    told = cbor.encode(message)
    return fake_child.command(f"{len(told):08x}{told.hex()}")


@pytest.mark.parametrize("reason", BY_THE_JUDGE)
def test_every_reason_of_the_judge_ends_as_a_verdict_in_the_log(world: World, reason: Reason):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine, judgement = world.database.engine("worker"), Judgement(reason, {"blocks": 1})
    with worker(engine, FakeAuditServer(world.trail), answering(judgement)) as made_worker:
        assert made_worker.run(assign(engine, receipt.entry)) == "done"
    (verdict,) = verdicts(world)
    assert (verdict.outcome, verdict.reason) == (reason.outcome, reason)
    assert world.fsck() == []


def test_a_reason_that_is_in_no_catalogue_is_a_failure_of_the_process_and_is_counted(world: World):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    invented = cbor.encode({"outcome": "FAIL", "reason": "made-up", "facts": {}})
    command = saying({"judgement": invented})
    with worker(engine, FakeAuditServer(world.trail), command) as made_worker:
        number = assign(engine, receipt.entry)
        for failures in range(1, MAX_FAILURES + 1):
            assert made_worker.run(number).startswith("later: ")
            row = row_of(engine, number)
            assert row.failures == failures
            assert row.leased_until is not None
            assert row.leased_until > now_ms(), "it rests before it is tried again"
            assert made_worker.run(number) == "not due"
            with session(engine) as db:
                db.get_one(WorkRow, number).leased_until = None
        assert made_worker.run(number) == "done"
    (verdict,) = verdicts(world)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.UNREPLAYABLE)
    assert verdict.reason.blame is Blame.AUDIT


def test_pauses_grow_and_end(world: World):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    number = assign(engine, receipt.entry)
    pauses = []
    for _ in range(12):
        with session(engine) as db:
            work_list.fail(db, number, "it failed", now=0)
        row = row_of(engine, number)
        assert row.leased_until is not None
        pauses.append(row.leased_until)
    assert pauses[:4] == [1_000, 2_000, 4_000, 8_000]
    assert pauses[-1] == work_list.LONGEST_PAUSE_MS


# -- one order, two receipts ------------------------------------------------------------------------------------------


def test_a_second_receipt_for_an_order_fails_without_any_disclosure(world: World):
    signed = world.node.receipt("acme")
    value = replace(
        read_as(Receipt, signed.statement), node_sequence=1, previous=entry_of(signed.statement)
    )
    copy = sign(value, key=made.key("alpha/one"), issuer="alpha/one")
    first, second = world.put(signed, Submission(copy, signed.order))
    engine = world.database.engine("worker")
    passing = answering(Judgement(Reason.EXACT, {}))
    with worker(engine, FakeAuditServer(world.trail), passing) as made_worker:
        opened: list[object] = []
        object.__setattr__(made_worker, "disclosure", Recorder(opened))
        assert made_worker.run(assign(engine, second.entry)) == "done"
        assert opened == []
        row = row_of(engine, 1)
        assert row.judgement is not None
        assert Judgement.from_bytes(row.judgement).facts == {"answered_by": first.entry.hex()}
    (verdict,) = verdicts(world)
    assert (verdict.receipt, verdict.reason) == (second.entry, Reason.ORDER)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"usage": {"compute_ms": 10**9}}, Reason.IMPLAUSIBLE),
        ({"finish": Finish.CANCELLED}, Reason.FINISH),
        ({"finish": Finish.DEADLINE}, Reason.FINISH),
    ],
)
def test_what_receipt_and_order_show_by_themselves_takes_no_disclosure(
    world: World, change: dict[str, Any], reason: Reason
):
    signed = world.node.receipt("acme")
    value = read_as(Receipt, signed.statement)
    usage = replace(value.usage, **change.pop("usage", {}))
    lying = sign(
        replace(value, usage=usage, **change), key=made.key("alpha/one"), issuer="alpha/one"
    )
    (receipt,) = world.put(Submission(lying, signed.order))
    engine = world.database.engine("worker")
    passing = answering(Judgement(Reason.EXACT, {}))
    with worker(engine, FakeAuditServer(world.trail), passing) as made_worker:
        opened: list[object] = []
        object.__setattr__(made_worker, "disclosure", Recorder(opened))
        assert made_worker.run(assign(engine, receipt.entry)) == "done"
        assert opened == []
    (verdict,) = verdicts(world)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, reason)


def test_two_final_records_of_one_receipt_fail_without_a_replay(world: World):
    class Twice:
        """A double of a disclosure that found two."""

        def open(self, case, *, past_deadline):
            return Disclosed(None, None, signed_twice=True)

    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    passing = answering(Judgement(Reason.EXACT, {}))
    with worker(engine, FakeAuditServer(world.trail), passing) as made_worker:
        object.__setattr__(made_worker, "disclosure", Twice())
        assert made_worker.run(assign(engine, receipt.entry)) == "done"
    (verdict,) = verdicts(world)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, Reason.STREAM)


class Recorder:
    """A double of a disclosure that only records that it was asked."""

    def __init__(self, opened: list[object]) -> None:
        self.opened = opened

    def open(self, case, *, past_deadline):
        self.opened.append(case)
        raise AssertionError("nothing needs to be disclosed")


# -- evidence that does not come --------------------------------------------------------------------------------------


class Withholding:
    """A double of a disclosure whose node does not answer."""

    def open(self, case, *, past_deadline):
        if not past_deadline:
            raise CounterfoilError(Code.UNAVAILABLE, "not yet")
        return Disclosed(
            None, None, Reason.WITHHELD, "node.example: \x1b[31mred\x1b[0m" + "x" * 5000
        )


@pytest.mark.parametrize("asked_in_time", [True, False])
def test_a_node_is_blamed_only_when_it_was_asked_in_time(world: World, monkeypatch, asked_in_time):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    with worker(engine, FakeAuditServer(world.trail), fake_child.command("pass")) as made_worker:
        object.__setattr__(made_worker, "disclosure", Withholding())
        number = assign(engine, receipt.entry)
        if asked_in_time:
            assert made_worker.run(number) == "later: UNAVAILABLE: not yet"
        deadline = row_of(engine, number).deadline
        monkeypatch.setattr(worker_module, "now_ms", lambda: deadline + 1)
        assert made_worker.run(number) == "done"
        row = row_of(engine, number)
        assert row.judgement is not None
        why = Judgement.from_bytes(row.judgement).facts["why"]
    expected = Reason.WITHHELD if asked_in_time else Reason.UNAVAILABLE
    assert row.reason == expected
    assert isinstance(why, str)
    assert len(why) <= worker_module.MAX_WHY
    assert "\x1b" not in why


def test_strangers_words_move_no_cursor():
    assert printable("a\x1b[2Jb\r\n\u202ec", MAX_WHY, " ") == "a [2Jb   c"


# -- what takes too long ----------------------------------------------------------------------------------------------


def test_what_would_take_too_long_by_the_workers_own_speed_ends_in_a_verdict_of_the_audits_doing(
    world: World,
):
    signed, again = world.put(world.node.receipt("acme"), world.node.receipt("acme"))
    engine = world.database.engine("worker")
    server = FakeAuditServer(world.trail)
    with worker(engine, server, fake_child.command("longest")) as made_worker:
        assert made_worker.run(assign(engine, signed.entry)) == "done"
        for _ in range(ENOUGH):  # a token takes so long that a whole case takes twice the cap
            made_worker.replayer.speeds.note(
                KIND, fake_child.TOKENS, 2 * made_worker.lease.cap_ms / 1000
            )
        number = assign(engine, again.entry)
        assert made_worker.run(number) == "done"
        row = row_of(engine, number)
        assert row.judgement is not None
        longest = Judgement.from_bytes(row.judgement).facts["longest"]
        assert longest in {fake_child.TOKENS // 2 - 1, fake_child.TOKENS // 2}
        assert row.failures == 0
    first, second = verdicts(world)
    assert first.reason is Reason.EXACT
    assert (second.outcome, second.reason) == (Outcome.INCONCLUSIVE, Reason.UNREPLAYABLE)


# -- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_kept_while_its_replay_runs(world: World):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    server = FakeAuditServer(world.trail)
    with worker(engine, server, fake_child.command("pass"), lease_ms=300) as made_worker:
        number = assign(engine, receipt.entry)
        with session(engine) as db:
            row = work_list.claim(db, number, "worker", now=now_ms(), lease_ms=300)
        assert row is not None
        first = row.leased_until
        assert first is not None
        with made_worker._lease_kept(number):
            extended = False
            for _ in range(200):
                current = row_of(engine, number).leased_until
                extended = current is not None and current > first
                if extended:
                    break
                time.sleep(0.05)
        assert extended


def test_a_replay_has_a_lease_as_long_as_it_is_predicted_to_take_and_renewing_does_not_shorten_it(
    world: World, tmp_path: Path
):
    signed = world.node.receipt("acme")
    (receipt,) = world.put(signed)
    engine, mark = world.database.engine("worker"), tmp_path / "has the case"
    server = FakeAuditServer(world.trail)
    usage = read_as(Receipt, signed.statement).usage
    hanging = fake_child.command("hang", mark)
    with worker(engine, server, hanging, lease_ms=60_000) as made_worker:
        for _ in range(ENOUGH):
            made_worker.replayer.speeds.note(KIND, 1000, 100_000 / (usage.input + usage.output))
        number, began = assign(engine, receipt.entry), now_ms()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(made_worker.run, number)
            until(mark.exists)
            ends = row_of(engine, number).leased_until
            assert ends is not None
            assert ends >= began + 100_000 * MARGIN
            with session(engine) as db:
                work_list.extend(db, number, until=now_ms() + 60_000)
            assert row_of(engine, number).leased_until == ends
            assert made_worker.replayer._child is not None
            made_worker.replayer._child.kill()
            assert running.result(60).startswith("later: ")
        rests = row_of(engine, number).leased_until
        assert rests is not None
        assert rests < ends, "what failed is due again after its pause, not after its lease"
