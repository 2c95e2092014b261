"""The epoch clock: opens, seals, waits for the beacon, draws, and assigns work; exactly once, whatever it stumbles over."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from audit_layer.replay import work_list
from audit_layer.replay.models import WorkRow
from audit_layer.selection import authority as authority_room
from audit_layer.selection.authority import TICK_LOCK, Authority
from audit_layer.selection.models import EpochRow
from audit_layer.selection.settings import AuthoritySettings, PeerSettings
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from shared.envelope.hpke import hpke_key_id
from shared.parties.beacon_service import BeaconService, CommitmentRequest, RevealRequest
from shared.parties.reveal_memory import RevealMemory
from shared.runtime.errors import Code, CounterfoilError
from shared.selection import beacon
from shared.selection.draw import Logged, drawn_by_rate, floor_of, node_hash, selection_seed
from shared.selection.party import BeaconParty
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import Payload, entry_of, open_as, parse_statement, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.verdicts import Reason
from shared.verification.draw_check import HOUR_MS, Known, check_draw
from shared.verification.epoch_record import TYPES, gather
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import ORIGIN, make_world
from tests.audit_layer.log.world import World as LogWorld
from tests.audit_layer.replay.court import FakeAuditServer
from tests.audit_layer.trail.conftest import World, world
from tests.vectors.samples import hpke_key

__all__ = ["world"]

EPOCH_MS, REVEAL_MS = 10_000, 5_000
THREE_PEERS = tuple(
    PeerSettings(
        name=name,
        hpke_key=hpke_key(name).public_bytes.hex(),
        signing_key=made.public(name).hex(),
    )
    for name in ("worker", "worker-2", "worker-3")
)
PEERS = THREE_PEERS[:2]


class FakeBeaconClient:
    """A double of HTTPS: a real beacon party, called directly. `down` makes it not answer."""

    def __init__(self, name: str, service: BeaconService) -> None:
        self.name = name
        self.service = service
        self.down = False
        self.lie: Callable[[bytes], bytes] = bytes
        """What happens to its answers."""

    def commitment(self, epoch: int) -> bytes:
        self._check()
        return self.lie(self.service.commitment(CommitmentRequest(epoch).to_cbor()))

    def reveal(self, epoch: int, *shown) -> bytes:
        self._check()
        return self.lie(self.service.reveal(RevealRequest(epoch, *shown).to_cbor()))

    def close(self) -> None:
        """Nothing is open."""

    def _check(self) -> None:
        if self.down:
            raise CounterfoilError(Code.UNAVAILABLE, f"{self.name} does not answer")


@dataclass
class Clock:
    """An authority with two beacon parties, over a log that one witness cosigns."""

    world: World
    engine: Engine
    log: LogWorld
    server: FakeAuditServer
    parties: list[FakeBeaconClient]
    authority: Authority
    now: int = 1_000_000
    memories: list[RevealMemory] = field(default_factory=list)

    def step(self, passed_ms: int = 0) -> None:
        """Let time pass, do once what is due, and have the log witnessed."""
        self.now += passed_ms
        self.authority.tick(self.now)
        self.server.publish()

    def receipts(self, count: int, node: made.Node | None = None) -> list[bytes]:
        node = node or self.world.node
        return [
            item.entry for item in self.world.put(*(node.receipt("acme") for _ in range(count)))
        ]

    def epoch(self, *, reveals: bool = True) -> None:
        """End the epoch that is open: seal and draw."""
        self.step(EPOCH_MS)  # opens the next one
        self.step()  # seals
        self.step()  # reveals and draws
        if not reveals:
            self.step(REVEAL_MS)

    def rows(self) -> list[EpochRow]:
        with session(self.engine) as db:
            return list(db.scalars(select(EpochRow).order_by(EpochRow.epoch)))

    def work(self) -> list[WorkRow]:
        with session(self.engine) as db:
            return list(db.scalars(select(WorkRow).order_by(WorkRow.id)))

    def logged(self, cls: type[Payload]) -> list:
        """All statements of one type in the log, in log order, signed by whoever must sign them."""
        key = None if cls is BeaconReveal else made.public("authority")
        rows = self.world.rows(
            "SELECT raw FROM trail_statements WHERE type = %s ORDER BY log_index", cls.TYPE
        )
        return [open_as(cls, raw, key)[0] for (raw,) in rows]


@pytest.fixture
def make(world: World, tmp_path: Path) -> Iterator[Callable[..., Clock]]:
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )
    opened: list[RevealMemory] = []

    def build(**settings) -> Clock:
        server = FakeAuditServer(world.trail, log)
        parties = []
        for name, role in (("witness-1", "witness"), ("custodian-1", "custodian")):
            world.trail.add_party(name, role, made.public(name))
            memory = RevealMemory(tmp_path / f"{name}.sqlite")
            opened.append(memory)
            party = BeaconParty(name, ORIGIN, made.some(name), made.key(name))
            parties.append(
                FakeBeaconClient(
                    name, BeaconService(party, memory, log.policy, made.public("authority"))
                )
            )
        values = {
            "key_file": tmp_path / "unused",
            "epoch_seconds": EPOCH_MS / 1000,
            "reveal_seconds": REVEAL_MS / 1000,
            "rate_ppm": 500_000,
            "floor": 1,
            **settings,
        }
        engine = world.database.engine("worker")
        authority = Authority(
            name="authority",
            engine=engine,
            server=server,  # type: ignore[arg-type]  # a double
            parties=parties,  # type: ignore[arg-type]  # doubles
            key=made.key("authority"),
            origin=ORIGIN,
            settings=AuthoritySettings.model_validate(values),
            peers=PEERS,
            work=work_list,
        )
        return Clock(world, engine, log, server, parties, authority)

    yield build
    for memory in opened:
        memory.close()
    log.close()


# -- an ordinary epoch ----------------------------------------------------------------------------------------


def test_an_epoch_is_opened_sealed_revealed_and_drawn_as_anyone_can_recompute(make):
    clock = make()
    clock.step()
    entries = clock.receipts(12)
    clock.epoch()
    opened, following = clock.logged(EpochOpen)
    (seal,), (draw,) = clock.logged(EpochSeal), clock.logged(Draw)
    assert (opened.epoch, following.epoch, seal.epoch, draw.epoch) == (0, 1, 0, 0)
    reveals = [value.reveal for value in clock.logged(BeaconReveal)]
    assert reveals == [beacon.reveal(made.some(party.name), ORIGIN, 0) for party in clock.parties]
    seed = selection_seed(ORIGIN, seal.size, seal.root, beacon.combine(reveals))
    smallest = floor_of(seed, entries, 1)
    expected = [
        entry for entry in entries if drawn_by_rate(seed, entry, 500_000) or entry in smallest
    ]
    assert draw.seed == seed
    assert not draw.whole
    assert [row.receipt for row in clock.work()] == expected
    assert seal.nodes == {clock.world.bundle: node_hash(entries)}
    assert [row.state for row in clock.rows()] == ["drawn", "open"]
    assert clock.world.fsck() == []


def test_every_drawn_receipt_is_requested_in_the_log_for_one_worker_with_its_reason(make):
    clock = make()
    clock.step()
    clock.receipts(8)
    clock.epoch()
    rows, (draw,) = clock.work(), clock.logged(Draw)
    requests = clock.logged(DisclosureRequest)
    assert len(rows) == len(requests) == len(draw.drawn) > 0
    keys = {hpke_key_id(hpke_key(peer.name).public_bytes): peer.name for peer in PEERS}
    for row, request, index in zip(rows, requests, draw.drawn, strict=True):
        assert (row.receipt, index) == (request.receipt, request.index)
        assert keys[request.recipient] == row.worker
        assert request.reason in {DisclosureReason.DRAW, DisclosureReason.FLOOR}
        assert request.deadline == row.deadline > clock.now
        assert (row.kind, row.done_at) == ("primary", None)


def test_what_the_authority_does_passes_every_step_of_the_check(make):
    """Also with a party that is away, with nobody, and with nothing to draw."""
    clock = make(rate_ppm=300_000, floor=1)
    clock.step()
    for away in ((), (1,), (0, 1), ()):
        clock.receipts(5)
        for at, party in enumerate(clock.parties):
            party.down = at in away
        clock.epoch(reveals=not away)
    clock.step(REVEAL_MS)  # nobody had committed to the last one
    statements = clock.world.rows(
        "SELECT log_index, raw FROM trail_statements WHERE type = ANY(%s)", sorted(TYPES)
    )
    receipts = clock.world.rows("SELECT entry, log_index, bundle FROM trail_receipts")
    known = Known(
        receipts=[Logged(*row) for row in receipts],
        all_receipts=True,
        requests=clock.logged(DisclosureRequest),
    )
    records = gather(statements)
    assert [record.epoch for record in records] == [0, 1, 2, 3]
    for record in records:
        late = record.seal.value.at + HOUR_MS + 1
        checked = check_draw(record, origin=ORIGIN, now=late, known=known)
        assert checked.faults == ()
        assert checked.steps == (*range(1, 8), 9, 10, 11)


def test_epochs_follow_each_other_without_gap_or_overlap(make):
    clock = make(rate_ppm=1_000_000)
    clock.step()
    expected = []
    for count in (3, 0, 2):
        expected += clock.receipts(count)
        clock.epoch()
    seals = clock.logged(EpochSeal)
    assert [seal.epoch for seal in seals] == [0, 1]
    for before, after in itertools.pairwise(seals):
        assert before.size == after.first
    assert [row.receipt for row in clock.work()] == expected


def test_an_epoch_without_receipts_is_extended_and_the_log_does_not_grow(make):
    clock = make(rate_ppm=1_000_000)
    clock.step()
    size = clock.world.rows("SELECT count(*) FROM trail_statements")
    for _ in range(5):
        clock.epoch()
    assert clock.world.rows("SELECT count(*) FROM trail_statements") == size
    assert [row.state for row in clock.rows()] == ["open"]
    entries = clock.receipts(2)
    clock.step(EPOCH_MS - 1)  # the term began anew when nothing was found
    assert len(clock.logged(EpochOpen)) == 1
    clock.epoch()
    (seal,), (draw,) = clock.logged(EpochSeal), clock.logged(Draw)
    assert (seal.epoch, draw.epoch, seal.first) == (0, 0, clock.rows()[0].first)
    assert [row.receipt for row in clock.work()] == entries
    assert clock.world.fsck() == []


def test_nothing_happens_before_it_is_due_however_often_it_ticks(make):
    clock = make()
    clock.step()
    clock.receipts(3)
    for _ in range(4):
        clock.step(EPOCH_MS // 5)
    assert [row.state for row in clock.rows()] == ["open"]
    assert (clock.logged(EpochSeal), clock.logged(Draw)) == ([], [])


def test_a_seal_waits_until_what_it_seals_is_witnessed(make):
    clock = make()
    clock.step()
    clock.receipts(3)
    clock.log.witnesses[0].down = True
    clock.now += EPOCH_MS
    for _ in range(3):
        clock.authority.tick(clock.now)
    assert clock.logged(EpochSeal) == []
    clock.log.witnesses[0].down = False
    clock.server.publish()
    clock.step()
    assert len(clock.logged(EpochSeal)) == 1


# -- the beacon -------------------------------------------------------------------------------------------------


def test_a_missing_reveal_delays_the_draw_and_then_the_whole_epoch_is_audited(make):
    clock = make(rate_ppm=0, floor=0)
    clock.step()
    entries = clock.receipts(5)
    clock.step(EPOCH_MS)
    clock.step()
    clock.parties[1].down = True
    clock.step()
    assert clock.logged(Draw) == []
    clock.step(REVEAL_MS - 1)
    assert clock.logged(Draw) == []
    clock.step(1)
    (draw,) = clock.logged(Draw)
    assert draw.whole
    (reveal,) = clock.logged(BeaconReveal)
    assert reveal.party == "witness-1"
    (seal,) = clock.logged(EpochSeal)
    assert draw.seed == selection_seed(
        ORIGIN, seal.size, seal.root, beacon.combine([reveal.reveal])
    )
    assert [row.receipt for row in clock.work()] == entries
    assert {request.reason for request in clock.logged(DisclosureRequest)} == {
        DisclosureReason.WHOLE
    }


def test_a_party_that_stays_silent_is_told_once_in_each_epoch(make, caplog):
    clock = make(rate_ppm=0, floor=0)
    clock.step()
    clock.receipts(1)
    clock.step(EPOCH_MS)
    clock.parties[1].down = True
    for _ in range(4):
        clock.step(1)
    told = [record.getMessage() for record in caplog.records if "did not reveal" in record.msg]
    assert len(told) == 1
    assert clock.parties[1].name in told[0]


def test_a_reveal_that_comes_late_but_in_time_makes_an_ordinary_draw(make):
    clock = make(rate_ppm=0, floor=1)
    clock.step()
    clock.receipts(5)
    clock.step(EPOCH_MS)
    clock.step()
    clock.parties[0].down = True
    clock.step()
    clock.parties[0].down = False
    clock.step(REVEAL_MS - 1)
    (draw,) = clock.logged(Draw)
    assert not draw.whole
    assert len(draw.drawn) == 1


def test_parties_that_give_no_commitment_are_not_named_and_none_at_all_means_whole(make):
    clock = make(rate_ppm=0, floor=0)
    clock.parties[0].down = True
    clock.step()
    (opened,) = clock.logged(EpochOpen)
    assert opened.commitments == (entry_of(clock.parties[1].service.party.commit(0)),)
    clock.parties[1].down = True
    clock.receipts(2)
    clock.step(EPOCH_MS)  # opens the next epoch, for which nobody commits
    assert clock.logged(EpochOpen)[1].commitments == ()
    entries = clock.receipts(3)
    clock.step()
    clock.parties[1].down = False
    clock.epoch()
    clock.step(REVEAL_MS)
    draws = {draw.epoch: draw for draw in clock.logged(Draw)}
    assert not draws[0].whole
    assert draws[1].whole
    wholes = {row.receipt for row in clock.work() if row.epoch == 1}
    assert wholes >= set(entries)


def _changed(key: str = "custodian-1", **change) -> Callable[[bytes], bytes]:
    """Sign a beacon statement anew, with another key or with other contents."""

    def lie(raw: bytes) -> bytes:
        kind: Any = (
            BeaconReveal if parse_statement(raw).type == BeaconReveal.TYPE else BeaconCommitment
        )
        value = replace(open_as(kind, raw, None)[0], **change)
        issuer = value.party
        return sign(value, key=made.key(key), issuer=issuer, subject=f"epoch-{value.epoch}")

    return lie


LIES = {
    "junk": lambda _raw: b"junk",
    "another epoch": _changed(epoch=9),
    "another log": _changed(origin="other/log"),
    "another party": _changed(party="witness-1"),
    "another key": _changed("stranger"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_party_that_answers_with_something_else_gives_nothing_and_stops_nothing(make, lie):
    clock = make(rate_ppm=0, floor=0)
    clock.parties[1].lie = lie
    clock.step()
    honest = clock.parties[0].service.party.commit(0)
    assert clock.logged(EpochOpen)[0].commitments == (entry_of(honest),)
    clock.parties[1].lie = bytes
    clock.receipts(2)
    clock.step(EPOCH_MS)  # opens the next epoch with both
    clock.parties[1].lie = lie
    clock.receipts(3)
    clock.step()
    clock.epoch(reveals=False)
    draws = {draw.epoch: draw for draw in clock.logged(Draw)}
    assert [(draws[epoch].whole, len(draws[epoch].reveals)) for epoch in (0, 1)] == [
        (False, 1),
        (True, 1),
    ]


def test_a_reveal_that_opens_another_commitment_does_not_count(make):
    clock = make(rate_ppm=0, floor=0)
    clock.step()
    clock.receipts(2)
    clock.step(EPOCH_MS)
    clock.parties[1].lie = _changed(reveal=made.some("chosen later"))
    for passed in (0, 0, REVEAL_MS):
        clock.step(passed)
    (draw,) = clock.logged(Draw)
    assert (draw.whole, len(draw.reveals)) == (True, 1)


def test_the_reveals_are_kept_and_asked_for_once(make):
    clock = make()
    clock.step()
    clock.receipts(2)
    clock.step(EPOCH_MS)
    clock.step()
    clock.parties[1].down = True
    clock.step()
    kept = clock.world.rows("SELECT party FROM replay_beacons WHERE reveal_statement IS NOT NULL")
    assert kept == [("witness-1",)]
    clock.parties[0].down, clock.parties[1].down = True, False
    clock.step()
    (draw,) = clock.logged(Draw)
    assert not draw.whole


# -- repetition and failure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_log_that_is_down_at_any_step_costs_nothing_but_time(make, when):
    """Each call to the log fails once, before or after it has acted: nothing is lost and nothing is there twice."""
    clock = make(rate_ppm=1_000_000)
    failed: set[tuple[str, ...]] = set()

    def fail_once(types: list[str]) -> None:
        kinds = tuple(types)
        if kinds not in failed:
            failed.add(kinds)
            raise CounterfoilError(Code.UNAVAILABLE, "the log is away")

    setattr(clock.server, when, fail_once)

    def step(passed: int = 0) -> None:
        clock.now += passed
        for _ in range(3):
            with contextlib.suppress(CounterfoilError):
                clock.authority.tick(clock.now)
        clock.server.publish()

    step()
    entries = clock.receipts(4)
    step(EPOCH_MS)
    for _ in range(4):
        step()
    assert len(failed) >= 4
    assert [row.receipt for row in clock.work()] == entries
    for cls, count in ((EpochOpen, 2), (EpochSeal, 1), (Draw, 1), (BeaconReveal, 2)):
        assert len(clock.logged(cls)) == count, cls
    assert len(clock.logged(DisclosureRequest)) == len(entries)
    assert clock.world.fsck() == []


def test_a_draw_of_nothing_is_in_the_log_too(make):
    """Otherwise nobody could tell an epoch without a sample from one whose draw is withheld."""
    clock = make(rate_ppm=0, floor=0)
    clock.step()
    clock.receipts(2)
    clock.step(EPOCH_MS)
    clock.step()
    failed = []

    def fail_once(types: list[str]) -> None:
        if "draw" in types and not failed:
            failed.append(types)
            raise CounterfoilError(Code.UNAVAILABLE, "the log is away")

    clock.server.before = fail_once
    with pytest.raises(CounterfoilError):
        clock.step()
    assert failed
    clock.step()
    (draw,) = clock.logged(Draw)
    assert draw.drawn == ()


def test_one_tick_at_a_time_per_installation(make):
    clock = make()
    with clock.engine.connect() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_lock({TICK_LOCK})")
        clock.authority.tick(clock.now)
        assert clock.rows() == []
        other.exec_driver_sql(f"SELECT pg_advisory_unlock({TICK_LOCK})")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: clock.authority.tick(clock.now), range(3)))
    assert [row.epoch for row in clock.rows()] == [0]


def test_a_large_sample_goes_to_the_log_in_calls_that_it_takes(make, monkeypatch):
    monkeypatch.setattr(authority_room, "MAX_BATCH", 3)
    clock = make(rate_ppm=1_000_000)
    calls: list[int] = []
    clock.server.before = lambda types: calls.append(len(types))
    clock.step()
    entries = clock.receipts(8)
    clock.epoch()
    assert max(calls) <= 3
    assert len(clock.logged(DisclosureRequest)) == len(entries)
    assert [row.state for row in clock.rows()] == ["drawn", "open"]


def test_a_node_that_does_not_stand_well_is_drawn_at_the_strict_floor_from_its_next_seal_on(make):
    clock = make(rate_ppm=0, floor=1, strict_floor=3)
    clock.step()
    first, *_ = clock.receipts(5)
    clock.epoch()
    clock.receipts(5)
    clock.world.put(Submission(made.verdict(first, reason=Reason.TOKENS)))
    clock.server.publish()
    clock.epoch()
    seals, draws = clock.logged(EpochSeal), clock.logged(Draw)
    assert [seal.strict for seal in seals] == [None, (clock.world.bundle,)]
    assert [len(draw.drawn) for draw in draws] == [1, 3]
    assert {opened.strict_floor for opened in clock.logged(EpochOpen)} == {3}


def test_without_a_strict_floor_above_the_floor_there_is_none(make):
    clock = make(rate_ppm=0, floor=3, strict_floor=3)
    clock.step()
    (first,) = clock.receipts(1)
    clock.world.put(Submission(made.verdict(first, reason=Reason.TOKENS)))
    clock.epoch()
    assert clock.logged(EpochSeal)[0].strict is None
    assert {opened.strict_floor for opened in clock.logged(EpochOpen)} == {None}


# -- confirmation -----------------------------------------------------------------------------------------------------


def finish(clock: Clock, row: WorkRow, reason: Reason) -> None:
    with session(clock.engine) as db:
        work_list.store_verdict(
            db, row.id, statement=b"verdict", judgement=b"j", outcome=reason.outcome, reason=reason
        )
        work_list.finish(db, row.id, now=clock.now)


@pytest.mark.parametrize("blames", [Reason.TOKENS, Reason.ORDER, Reason.WITHHELD, Reason.PROFILE])
@pytest.mark.parametrize("harmless", [Reason.EXACT, Reason.UNAVAILABLE, Reason.ESCROW])
def test_what_blames_a_node_is_put_before_another_worker_once_and_nothing_else_is(
    make, blames, harmless
):
    clock = make(rate_ppm=1_000_000)
    clock.step()
    clock.receipts(3)
    clock.epoch()
    failed, passed, open_ = clock.work()
    finish(clock, failed, blames)
    finish(clock, passed, harmless)
    for _ in range(3):
        clock.step()
    (confirm,) = [row for row in clock.work() if row.kind == "confirm"]
    assert (confirm.receipt, confirm.epoch) == (failed.receipt, failed.epoch)
    assert {confirm.worker, failed.worker} == {"worker", "worker-2"}
    (request,) = [
        value
        for value in clock.logged(DisclosureRequest)
        if value.reason is DisclosureReason.CONFIRM
    ]
    assert request.receipt == failed.receipt
    assert request.recipient == hpke_key_id(hpke_key(confirm.worker).public_bytes)
    finish(clock, confirm, blames)
    clock.step()
    assert len(clock.work()) == 4
    assert open_.done_at is None


@pytest.mark.parametrize("differs", [Reason.EXACT, Reason.UNAVAILABLE, Reason.WITHHELD])
def test_a_third_worker_is_asked_where_the_second_makes_another_charge_or_none(make, differs):
    clock = make(rate_ppm=1_000_000)
    object.__setattr__(clock.authority, "peers", THREE_PEERS)
    clock.step()
    clock.receipts(1)
    clock.epoch()
    (failed,) = clock.work()
    finish(clock, failed, Reason.TOKENS)
    clock.step()
    clock.step()
    _, confirm = clock.work()
    finish(clock, confirm, differs)
    for _ in range(3):
        clock.step()
    *_, third = clock.work()
    assert (len(clock.work()), third.kind) == (3, "third")
    assert {failed.worker, confirm.worker, third.worker} == {peer.name for peer in THREE_PEERS}
    finish(clock, third, Reason.EXACT)
    clock.step()
    assert len(clock.work()) == 3


def test_without_a_second_worker_nobody_is_asked_twice(make):
    clock = make(rate_ppm=1_000_000)
    object.__setattr__(clock.authority, "peers", PEERS[:1])
    clock.step()
    clock.receipts(1)
    clock.epoch()
    (row,) = clock.work()
    finish(clock, row, Reason.TOKENS)
    clock.step()
    assert len(clock.work()) == 1
