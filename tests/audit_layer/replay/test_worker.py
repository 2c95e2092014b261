"""Work survives its workers: a killed one loses nothing, and each piece of work ends in exactly one verdict."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from celery.signals import after_task_publish, task_postrun
from sqlalchemy import Engine

from audit_layer.disclosure.ground import DrawnGround
from audit_layer.replay import work_list
from audit_layer.replay.due_case import TrailDeposits, load_case
from audit_layer.replay.models import WorkRow
from audit_layer.replay.worker import Worker
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from audit_layer.trail.standings import Standings
from audit_layer.wiring.worker_metrics import CeleryCounts, worker_metrics
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as
from shared.statements.disclosures import DisclosureReason
from shared.statements.verdicts import Outcome, Verdict
from shared.verification.standing import Record
from tests.audit_layer.api import statements as made
from tests.audit_layer.replay import doomed_worker, fake_child
from tests.audit_layer.replay.court import (
    LEASE_MS,
    FakeAuditServer,
    assign,
    row_of,
    worker,
)
from tests.audit_layer.replay.waiting import until
from tests.audit_layer.trail.conftest import World, world
from tests.shared.runtime.test_metrics import parsed

__all__ = ["world"]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.audit_layer.replay.doomed_worker"])


@dataclass
class Bench:
    """One piece of work, and a worker that could do it."""

    world: World
    engine: Engine
    server: FakeAuditServer
    worker: Worker
    signed: Submission
    receipt: bytes
    number: int

    def verdicts(self) -> list[Verdict]:
        """Verdicts as the log has them."""
        rows = self.world.rows("SELECT raw FROM trail_statements WHERE type = 'verdict'")
        return [open_as(Verdict, raw, made.public("worker"))[0] for (raw,) in rows]


@pytest.fixture
def bench(world: World) -> Iterator[Bench]:
    signed = world.node.receipt("acme")
    (receipt,) = world.put(signed)
    engine = world.database.engine("worker")
    server = FakeAuditServer(world.trail)
    with worker(engine, server, fake_child.command("pass")) as made_worker:
        number = assign(engine, receipt.entry)
        yield Bench(world, engine, server, made_worker, signed, receipt.entry, number)


def test_a_piece_of_work_ends_in_one_signed_verdict_in_the_log(bench: Bench):
    assert bench.worker.run(bench.number) == "done"
    (verdict,) = bench.verdicts()
    assert (verdict.receipt, verdict.worker) == (bench.receipt, "worker")
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "exact")
    row = row_of(bench.engine, bench.number)
    assert (row.outcome, row.leased_until, row.last_error) == ("PASS", None, None)
    assert row.done_at is not None
    for _ in range(2):
        assert bench.worker.run(bench.number) == "not due"
    assert bench.worker.run(10_000) == "not due"
    assert len(bench.verdicts()) == 1


@pytest.mark.parametrize("point", doomed_worker.POINTS)
def test_a_worker_that_is_killed_loses_nothing_and_its_case_gets_one_verdict(
    bench: Bench, tmp_path, point
):
    """SIGKILL at the worst moments; while the lease runs nobody else begins, afterwards another process does."""
    mark = tmp_path / "there"
    database = bench.world.database
    doomed = _processes.Process(
        target=doomed_worker.run,
        args=(database.worker_dsn, database.server_dsn, bench.number, point, str(mark), LEASE_MS),
    )
    doomed.start()
    until(lambda: mark.exists() or doomed.exitcode is not None)
    assert doomed.pid is not None
    assert bench.worker.run(bench.number) == "not due"
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    stored = row_of(bench.engine, bench.number).verdict_statement
    assert (stored is None) == (point == "in mid-replay")
    assert len(bench.verdicts()) == (point == "with its verdict in the log")

    assert bench.worker.run(bench.number) == "not due"
    _run_the_lease_out(bench)
    assert bench.worker.run(bench.number) == "done"
    (verdict,) = bench.verdicts()
    assert verdict.outcome is Outcome.PASS
    row = row_of(bench.engine, bench.number)
    assert row.attempts == 2
    if stored is not None:
        assert bench.world.rows("SELECT raw FROM trail_statements WHERE type = 'verdict'") == [
            (stored,)
        ]
    assert bench.world.fsck() == []


def _run_the_lease_out(bench: Bench) -> None:
    bench.world.rows("UPDATE replay_work SET leased_until = 1 WHERE id = %s", bench.number)


def test_of_workers_that_take_one_case_at_once_one_gets_it(bench: Bench):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: bench.worker.run(bench.number), range(4)))
    assert sorted(answers) == ["done", "not due", "not due", "not due"]
    assert len(bench.verdicts()) == 1


def test_a_replay_process_that_dies_gives_no_verdict_and_the_case_rests_before_a_retry(
    bench: Bench, tmp_path
):
    mark = tmp_path / "has the case"
    bench.worker.replayer._command = fake_child.command("hang", mark)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.worker.run, bench.number)
        until(mark.exists)
        assert bench.worker.replayer._child is not None
        os.kill(bench.worker.replayer._child.pid, signal.SIGKILL)
        assert running.result(60).startswith("later: UNAVAILABLE")
    row = row_of(bench.engine, bench.number)
    assert (row.failures, row.outcome, row.verdict_statement) == (1, None, None)
    assert "replay process" in (row.last_error or "")
    assert bench.verdicts() == []
    assert bench.worker.run(bench.number) == "not due"
    bench.world.rows("UPDATE replay_work SET leased_until = NULL RETURNING id")
    assert bench.worker.run(bench.number) == "done"
    assert [verdict.outcome for verdict in bench.verdicts()] == [Outcome.PASS]


def test_what_cannot_be_done_yet_is_tried_again_with_the_same_verdict(bench: Bench):
    away = iter([Code.UNAVAILABLE, Code.NOT_WITNESSED, Code.OVERLOADED])

    def refuse(_types: list[str]) -> None:
        code = next(away, None)
        if code is not None:
            raise CounterfoilError(code, "come back later")

    bench.server.before = refuse
    answers = [bench.worker.run(bench.number) for _ in range(4)]
    assert [answer.split(":")[0] for answer in answers] == ["later", "later", "later", "done"]
    row = row_of(bench.engine, bench.number)
    assert bench.server.submitted == [row.verdict_statement]
    assert row.attempts == 4


def test_what_went_wrong_unexpectedly_rests_and_is_counted(bench: Bench):
    """Otherwise a case that breaks its worker would be taken again at once, forever."""
    told = b"\xa1\x65error\x64oops"
    bench.worker.replayer._command = fake_child.command(f"{len(told):08x}{told.hex()}")
    assert bench.worker.run(bench.number) == "later: INTERNAL: the replay process failed: oops"
    row = row_of(bench.engine, bench.number)
    assert row.failures == 1
    assert (row.leased_until or 0) > made.NOW
    assert bench.worker.run(bench.number) == "not due"
    assert bench.verdicts() == []


def test_what_an_operator_must_repair_is_raised_and_rests_too(bench: Bench):
    def refuse(_types: list[str]) -> None:
        raise CounterfoilError(Code.UNTRUSTED_KEY, "this worker is not registered")

    bench.server.before = refuse
    with pytest.raises(CounterfoilError) as caught:
        bench.worker.run(bench.number)
    assert caught.value.code is Code.UNTRUSTED_KEY
    assert bench.worker.run(bench.number) == "not due"


def test_another_workers_row_is_not_taken(bench: Bench):
    bench.world.rows("UPDATE replay_work SET worker = 'worker-2' WHERE id = %s", bench.number)
    assert bench.worker.run(bench.number) == "not due"


# -- the work list --------------------------------------------------------------------------------------------


def test_a_lease_is_one_workers_until_it_runs_out(bench: Bench):
    def claim(now: int):
        with session(bench.engine) as db:
            return work_list.claim(db, bench.number, "worker", now=now, lease_ms=100)

    first = claim(1000)
    assert first is not None
    assert (first.leased_until, first.attempts) == (1100, 1)
    assert claim(1000) is None
    assert claim(1100) is None
    again = claim(1101)
    assert again is not None
    assert again.attempts == 2


def test_waiting_work_is_offered_again_and_again_but_not_all_the_time(bench: Bench):
    def due(now: int) -> list[tuple[int, str]]:
        with session(bench.engine) as db:
            return work_list.due(db, now=now, hint_ms=100)

    mine = [(bench.number, "worker")]
    assert due(1000) == mine
    assert due(1050) == []
    assert due(1101) == mine
    with session(bench.engine) as db:
        work_list.claim(db, bench.number, "worker", now=1200, lease_ms=1000)
    assert due(2100) == []
    assert due(2300) == mine  # its worker died
    with session(bench.engine) as db:
        work_list.finish(db, bench.number, now=2400)
    assert due(9000) == []


def test_the_first_stored_verdict_counts(bench: Bench):
    def store(statement: bytes) -> bytes:
        with session(bench.engine) as db:
            return work_list.store_verdict(
                db,
                bench.number,
                statement=statement,
                judgement=b"j",
                outcome="PASS",
                reason="exact",
            )

    assert store(b"first") == b"first"
    assert store(b"second") == b"first"


def test_a_verdict_on_what_the_tenant_asked_for_names_a_request_that_the_log_has_before_it(
    bench: Bench,
):
    """By that request everybody tells it from a draw's; the authority may have died before it sent it."""
    world = bench.world
    (audit,) = world.put(Submission(made.audit_request(bench.receipt)))
    asked = made.disclosure_request(bench.receipt, audit.entry, DisclosureReason.TENANT)
    with session(bench.engine) as db:
        row = WorkRow(
            receipt=bench.receipt, kind="asked", worker="worker", request_statement=asked,
            deadline=made.NOW + made.HOUR,
        )  # fmt: skip
        db.add(row)
        db.flush()
        number = row.id
    for work in (bench.number, number):
        assert bench.worker.run(work) == "done"
    assert world.rows("SELECT asked FROM trail_verdicts ORDER BY log_index") == [(False,), (True,)]
    ((before,),) = world.rows(
        "SELECT log_index FROM trail_statements WHERE entry = %s", entry_of(asked)
    )
    assert before < world.rows("SELECT max(log_index) FROM trail_verdicts")[0][0]
    assert Standings(bench.engine).records() == {("alpha", "one"): Record(passed=1)}
    assert world.fsck() == []


# -- cases ------------------------------------------------------------------------------------------------------


def test_a_case_holds_the_statements_as_the_log_has_them(bench: Bench):
    case = load_case(bench.engine, row_of(bench.engine, bench.number))
    ((raw,),) = bench.world.rows("SELECT raw FROM trail_statements WHERE entry = %s", bench.receipt)
    assert case.receipt_statement == raw
    assert case.endpoint == "127.0.0.1:1"
    assert case.ground == DrawnGround(made.epoch_open(), b"seal", b"draw", (), ())


def test_a_missing_statement_is_corruption_and_not_a_verdict(bench: Bench):
    bench.world.rows("DELETE FROM trail_statements WHERE entry = %s", bench.world.bundle)
    with pytest.raises(CounterfoilError) as caught:
        bench.worker.run(bench.number)
    assert caught.value.code is Code.CORRUPT
    assert bench.verdicts() == []


def test_deposits_come_with_the_order_in_the_order_of_their_arrival(bench: Bench):
    for final in (b"1", b"2"):
        bench.world.trail.deposit(bench.receipt, made.delivered(bench.signed, final))
    found = TrailDeposits(bench.engine).find(bench.receipt)
    assert [item.sent.final_record for item in found] == [b"1", b"2"]
    ((order,),) = bench.world.rows("SELECT raw FROM trail_orders")
    assert {item.order for item in found} == {order}
    assert TrailDeposits(bench.engine).find(made.some("unknown")) == []


@dataclass(frozen=True)
class Task:
    """Of a Celery task, what its signals show."""

    name: str


def test_a_worker_counts_what_became_of_its_work(bench: Bench):
    for became in ("done", "not due"):
        assert bench.worker.run(bench.number) == became
    celery = CeleryCounts(frozenset({"replay.run"}))
    try:
        task_postrun.send(sender=Task("replay.run"), state="SUCCESS")
        task_postrun.send(sender=Task("a stranger's"), state="FAILURE")
        after_task_publish.send(sender="replay.tick-of-somebody", body=None)
        samples = parsed(worker_metrics("worker", bench.worker.counts, celery).text())
    finally:
        celery.close()
    assert samples["counterfoil_worker_runs_total", frozenset({("result", "done")})] == 1
    assert samples["counterfoil_worker_runs_total", frozenset({("result", "not due")})] == 1
    passed = frozenset({("outcome", "PASS"), ("reason", "exact")})
    assert samples["counterfoil_worker_verdicts_total", passed] == 1
    assert samples["counterfoil_worker_replay_seconds_count", frozenset()] == 1
    assert samples["counterfoil_worker_replaying", frozenset()] == 0
    assert samples["counterfoil_worker_replayed_tokens_total", frozenset()] > 0
    ran = {labels for name, labels in samples if name == "counterfoil_tasks_total"}
    assert ran == {
        frozenset({("task", "replay.run"), ("state", "success")}),
        frozenset({("task", "other"), ("state", "failure")}),
    }
    assert samples["counterfoil_hints_sent_total", frozenset({("task", "other")})] == 1
    assert samples["counterfoil_metrics_failed_sources", frozenset()] == 0
