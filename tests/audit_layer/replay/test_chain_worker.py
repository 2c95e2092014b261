"""A worker that finds that another place of a chain gave a wrong boundary says which, and a second one confirms it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import Engine, update

from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.disclosure.service import Disclosed, DueCase
from audit_layer.replay import work_list
from audit_layer.replay.account import account_of
from audit_layer.replay.case import Case
from audit_layer.replay.judge import Judged, judge_chain
from audit_layer.replay.lease import LeaseTerms, Speeds
from audit_layer.replay.models import WorkRow
from audit_layer.replay.shown import ShownJudge
from audit_layer.replay.worker import Worker
from audit_layer.selection.work import Assignment, Kind
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from audit_layer.trail.standings import Standings
from shared.codec.moment import now_ms
from shared.envelope.delivered import Delivered, receipt_context
from shared.envelope.stream import final_signature_message
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, read_as
from shared.statements.disclosures import DisclosureReason
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason, Verdict
from shared.verification.bundle import Bundle
from shared.verification.judgement import Judgement
from shared.verification.share import Share
from tests.audit_layer.api import statements as made
from tests.audit_layer.replay.chained import OPERATORS, Place, TinyArithmetic, Told, cut, tell
from tests.audit_layer.replay.court import LEASE_MS, FakeAuditServer, assign, row_of
from tests.audit_layer.replay.inference import H
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]
OTHER = b"\xee" * 32


@dataclass
class LocalReplayer:
    """A double of the replay process: the judge, in this one. `says` answers in its place."""

    says: Judged | None = None
    speeds: Speeds = field(default_factory=Speeds)
    cases: list[Case] = field(default_factory=list)

    def judge_chain(self, case: Case, **_: object) -> Judged:
        self.cases.append(case)
        return self.says or judge_chain(case, TinyArithmetic())


@dataclass
class Showing:
    """A double of a disclosure: what the head was sent and sent, as far as it is there."""

    told: Told
    missing: Reason | None = None
    asked: list[DueCase] = field(default_factory=list)

    def open(self, case: DueCase, *, past_deadline: bool) -> Disclosed:
        self.asked.append(case)
        if self.missing is not None:
            return Disclosed(None, None, self.missing)
        given = self.told.case
        sent = Delivered(given.envelope, H, tuple(given.frames), given.final_record, bytes(64))
        return Disclosed(Ciphertexts(self.told.members[0].order, sent), given.secret)


@dataclass
class Court:
    """A chain's receipts in a trail, and workers."""

    world: World
    told: Told
    engine: Engine
    showing: Showing

    def worker(self, name: str = "worker", says: Judged | None = None) -> Worker:
        parts: dict[str, Any] = {
            "server": FakeAuditServer(self.world.trail), "disclosure": self.showing, "replayer": LocalReplayer(says),
        }  # fmt: skip
        terms = LeaseTerms(LEASE_MS, 10 * LEASE_MS)
        return Worker(name=name, engine=self.engine, key=made.key(name), lease=terms, **parts)

    def entry(self, place: int) -> bytes:
        return entry_of(self.told.members[place].receipt)

    def run(self, number: int, name: str = "worker", says: Judged | None = None) -> str:
        return self.worker(name, says).run(number)

    def further(self) -> list[tuple[Assignment, Kind, list[str]]]:
        """What the authority would ask other workers for now."""
        with session(self.engine) as db:
            return [(done, kind, list(heard)) for done, kind, heard in work_list.unconfirmed(db)]

    def ask(self, name: str) -> int:
        """Ask another worker, as the authority does; return the row's number."""
        ((done, kind, heard),) = self.further()
        assert name not in heard
        request = made.disclosure_request(done.receipt, reason=DisclosureReason.CONFIRM)
        asked = replace(done, worker=name, kind=kind, request_statement=request)
        with session(self.engine) as db:
            work_list.assign(db, [asked])
        with session(self.engine) as db:
            ((number, worker),) = work_list.due(db, now=now_ms(), hint_ms=1)
        assert worker == name
        return number

    def verdicts(self) -> list[tuple[str, int, str, bytes | None]]:
        """Return (worker, place, reason, what it confirms) of each verdict in the log, in its order."""
        places = {self.entry(at): at for at in range(len(self.told.members))}
        found = []
        for raw, worker in self.world.rows(
            "SELECT s.raw, v.worker FROM trail_statements s JOIN trail_verdicts v USING (entry) ORDER BY v.log_index"
        ):
            value, _ = open_as(Verdict, bytes(raw), made.public(worker))
            found.append((worker, places[value.receipt], value.reason.value, value.confirms))
        return found


@contextmanager
def court_of(world: World, places: list[Place], absent: tuple[int, ...] = ()) -> Iterator[Court]:
    told = tell(places)
    for name in OPERATORS[2 : len(places)]:
        world.trail.add_party(name, "operator", made.public(name))
    for name in ("second", "third"):
        world.trail.add_party(name, "worker", made.public(name))
    world.put(*map(Submission, told.bundles))
    logged = [member for at, member in enumerate(told.members) if at not in absent]
    world.put(*(Submission(member.receipt, member.order) for member in logged))
    yield Court(world, told, world.database.engine("worker"), Showing(told))


@pytest.fixture
def cheated(world: World) -> Iterator[Court]:
    """A chain of four, of which the third skips a layer."""
    places = cut(1, 2, 4)
    places[2] = replace(places[2], skips=2)
    with court_of(world, places) as court:
        yield court


@pytest.mark.parametrize("drawn", [0, 3])
def test_whichever_receipt_is_drawn_the_guilty_one_is_convicted_and_no_other(cheated: Court, drawn: int):  # fmt: skip
    number = assign(cheated.engine, cheated.entry(drawn))
    assert cheated.run(number) == "done"
    first = [("worker", drawn, "boundary", None), ("worker", 2, "activations", None)]
    assert cheated.verdicts() == first
    assert cheated.run(cheated.ask("second"), "second") == "done"
    *_, own, charge = cheated.verdicts()
    assert own == ("second", drawn, "boundary", None)
    assert charge[:3] == ("second", 2, "activations")
    ((confirmed,),) = cheated.world.rows(
        "SELECT entry FROM trail_verdicts WHERE worker = 'worker' AND reason = 'activations'"
    )
    assert charge[3] == confirmed
    assert cheated.further() == []
    records = Standings(cheated.engine).records()
    assert (records[OPERATORS[2], "one"].convicted, records[OPERATORS[2], "one"].standing) == (1, "suspended")  # fmt: skip
    for at in (0, 1, 3):
        record = records.get((OPERATORS[at], "one"))
        assert record is None or (record.convicted, record.open, record.withheld) == (0, 0, 0)
    assert cheated.world.fsck() == []


def test_the_guilty_ones_own_receipt_needs_nobody_elses(cheated: Court):
    assert cheated.run(assign(cheated.engine, cheated.entry(2))) == "done"
    assert cheated.verdicts() == [("worker", 2, "activations", None)]


def test_a_worker_that_dies_before_the_log_answers_says_the_same_again(cheated: Court):
    """Both verdicts are stored together before either is sent."""
    worker = cheated.worker()
    assert isinstance(worker.server, FakeAuditServer)

    def lost(_types: list[str]) -> None:
        raise CounterfoilError(Code.UNAVAILABLE, "gone")

    worker.server.before = lost
    number = assign(cheated.engine, cheated.entry(0))
    assert worker.run(number).startswith("later")
    assert cheated.verdicts() == []
    worker.server.before = lambda _types: None
    assert worker.run(number) == "done"
    assert [reason for _, _, reason, _ in cheated.verdicts()] == ["boundary", "activations"]
    with session(cheated.engine) as db:
        assert work_list.due(db, now=now_ms(), hint_ms=1) == []
    assert isinstance(worker.replayer, LocalReplayer)
    assert len(worker.replayer.cases) == 1


def test_what_was_found_is_told_to_those_whom_it_concerns(cheated: Court):
    cheated.run(assign(cheated.engine, cheated.entry(0)))
    row = cheated.world.trail.receipt_row(cheated.entry(2))
    assert row is not None
    (opinion,) = account_of(cheated.engine, row).opinions
    assert (opinion.kind, opinion.worker) == ("found", "worker")
    assert opinion.judgement is not None
    decisive = opinion.judgement.decisive
    assert decisive is not None
    assert decisive.difference is not None
    assert decisive.difference.where == {"boundary": 2}


def test_a_worker_that_charges_the_wrong_node_is_contradicted_and_a_third_is_asked(cheated: Court):
    """The second one logs what it finds about whoever is charged: an honest place before the guilty one passes."""
    lie = Judged(Judgement(Reason.BOUNDARY), {cheated.entry(1): Judgement(Reason.ACTIVATIONS)})
    assert cheated.run(assign(cheated.engine, cheated.entry(0)), says=lie) == "done"
    assert cheated.run(cheated.ask("second"), "second") == "done"
    assert cheated.verdicts()[2:] == [
        ("second", 0, "boundary", None),
        ("second", 1, "exact", None),
        ("second", 2, "activations", None),
    ]
    ((_, kind, heard),) = cheated.further()
    assert (kind, heard) == (Kind.THIRD, ["worker", "second"])
    assert cheated.run(cheated.ask("third"), "third") == "done"
    assert cheated.further() == []
    confirmed = [each for each in cheated.verdicts() if each[3] is not None]
    assert [each[:3] for each in confirmed] == [("third", 2, "activations")]
    records = Standings(cheated.engine).records()
    assert [records[OPERATORS[at], "one"].convicted for at in (1, 2)] == [0, 1]


def test_a_stage_whose_head_has_not_come_waits_and_then_blames_nobody(world: World):
    with court_of(world, cut(1, 3), absent=(0,)) as court:
        number = assign(court.engine, court.entry(1))
        assert "head" in court.run(number)
        assert court.verdicts() == []
        with session(court.engine) as db:
            db.execute(update(WorkRow).values(deadline=made.NOW - 1, leased_until=None))
        assert court.run(number) == "done"
        assert court.verdicts() == [("worker", 1, "unavailable", None)]


def test_that_the_heads_evidence_is_withheld_is_nothing_against_a_stage(world: World):
    with court_of(world, cut(1, 3)) as court, ExitStack():
        court.showing.missing = Reason.WITHHELD
        court.run(assign(court.engine, court.entry(2)))
        assert court.verdicts() == [("worker", 2, "unavailable", None)]
        (case,) = court.showing.asked
        assert case.head is not None
        assert (case.answering.entry, case.order) == (court.entry(0), court.told.members[2].order)


def test_a_key_bundle_that_the_log_lacks_blames_nobody(world: World):
    """The tenant sealed for it all the same: nobody else was asked to trust it."""
    places = cut(1, 3)
    told = tell(places)
    world.trail.add_party(OPERATORS[2], "operator", made.public(OPERATORS[2]))
    world.put(*map(Submission, told.bundles[:2]))
    head, first = told.members[:2]
    world.put(*(Submission(each.receipt, each.order) for each in (head, first)))
    court = Court(world, told, world.database.engine("worker"), Showing(told))
    assert court.run(assign(court.engine, court.entry(0))) == "done"
    assert court.verdicts() == [("worker", 0, "unavailable", None)]


def test_a_boundary_is_found_of_chains_only(world: World):
    (plain,) = world.put(world.node.receipt("acme"))
    assert world.code(made.verdict(plain.entry, reason=Reason.BOUNDARY)) is Code.INVALID_ARGUMENT


def test_an_honest_chain_is_judged_at_each_place_from_what_the_log_has(world: World):
    with court_of(world, cut(2, 3)) as court:
        numbers = [assign(court.engine, court.entry(at)) for at in range(3)]
        for number in numbers:
            assert court.run(number) == "done"
        assert [each[1:3] for each in court.verdicts()] == [(0, "exact"), (1, "exact"), (2, "exact")]  # fmt: skip
        assert row_of(court.engine, numbers[1]).outcome == "PASS"


def test_a_client_that_shows_a_chains_answer_has_the_guilty_node_convicted(cheated: Court):
    """Two workers judge the same file: the head's receipt says nothing about the head, and names who is to blame."""
    given, head = cheated.told.case, read_as(Receipt, cheated.told.members[0].receipt)
    message = final_signature_message(receipt_context(head), head.h_final, given.final_record)
    share = Share(
        bundle=Bundle(given.receipt, "proof", "policy"), secret=given.secret, envelope=given.envelope,
        node_nonce=H, accepted_signature=b"", frames=tuple((frame, b"") for frame in given.frames),
        final_record=given.final_record, final_signature=made.key("alpha/one").sign(message),
    )  # fmt: skip
    for name in ("worker", "second", "worker"):
        parts: dict[str, Any] = {"server": FakeAuditServer(cheated.world.trail), "replayer": LocalReplayer()}  # fmt: skip
        heard = ShownJudge(name=name, engine=cheated.engine, key=made.key(name), **parts).judge(
            share
        )
        assert (heard.verdict.reason, heard.entry) == (Reason.BOUNDARY, None)
    ((entry,),) = cheated.world.rows("SELECT entry FROM trail_verdicts WHERE worker = 'worker'")
    assert cheated.verdicts() == [
        ("worker", 2, "activations", None),
        ("second", 2, "activations", entry),
    ]
    assert Standings(cheated.engine).records()[OPERATORS[2], "one"].convicted == 1
