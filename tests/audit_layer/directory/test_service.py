"""The directory lists the key bundles that a client may choose from, with what the client checks for itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit_layer.directory import service
from audit_layer.directory.service import Directory
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import World as LogWorld
from tests.audit_layer.log.world import make_world
from tests.audit_layer.replay.court import FakeAuditServer
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]

OTHER_MODEL = made.some("other model")


@dataclass
class Desk:
    """A directory over a trail whose log one witness cosigns."""

    world: World
    log: LogWorld
    directory: Directory

    def put(self, operator: str = "alpha", **options) -> bytes:
        return self.world.put(Submission(made.bundle(operator, **options)))[0].entry

    def publish(self) -> None:
        FakeAuditServer(self.world.trail, self.log).publish()

    def entries(self, *arguments, **options) -> list[bytes]:
        return [item.entry for item in self.directory.key_bundles(*arguments, **options)]


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[Desk]:
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )
    yield Desk(world, log, Directory(world.trail, log.proofs()))
    log.close()


def test_live_bundles_are_listed_in_the_order_of_the_log_as_they_were_signed(desk: Desk):
    second = desk.put("beta")
    first_listed, second_listed = desk.directory.key_bundles()
    assert [first_listed.entry, second_listed.entry] == [desk.world.bundle, second]
    for listed in (first_listed, second_listed):
        assert entry_of(listed.statement) == listed.entry
        assert not listed.revoked
    assert (first_listed.bundle.operator, second_listed.bundle.operator) == ("alpha", "beta")


def test_a_bundle_has_its_proof_once_it_is_witnessed(desk: Desk):
    assert [item.tlog_proof for item in desk.directory.key_bundles()] == [None]
    desk.publish()
    late = desk.put("beta")
    first, second = desk.directory.key_bundles()
    assert first.tlog_proof is not None
    verify_tlog_proof(first.tlog_proof, first.entry, desk.log.policy)
    assert (second.entry, second.tlog_proof) == (late, None)


def test_a_bundle_is_listed_until_it_expires_and_never_again(desk: Desk):
    short = desk.put("beta", not_after=made.NOW + made.HOUR)
    end = made.NOW + made.HOUR
    assert short in desk.entries(now=end - 1)
    assert short not in desk.entries(now=end)
    assert desk.entries(now=end) == [desk.world.bundle]
    assert desk.entries(now=made.NOW + 25 * made.HOUR) == []


def test_only_bundles_of_the_model_that_is_asked_for_are_listed(desk: Desk):
    special = desk.put("beta", model=OTHER_MODEL)
    assert desk.entries(OTHER_MODEL) == [special]
    assert desk.entries(made.MODEL) == [desk.world.bundle]
    assert desk.entries(made.some("a third")) == []
    for wrong in (b"", b"short", bytes(33)):
        with pytest.raises(CounterfoilError) as caught:
            desk.entries(wrong)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_revoked_bundle_is_listed_as_such_from_its_time_on(desk: Desk):
    desk.put("beta")
    desk.world.put(Submission(made.revocation("alpha", desk.world.bundle)))  # at NOW - 1
    before = desk.directory.key_bundles(now=made.NOW - 2)
    after = desk.directory.key_bundles(now=made.NOW - 1)
    assert [item.revoked for item in before] == [False, False]
    assert [item.revoked for item in after] == [True, False]


def test_a_revocation_is_listed_as_it_was_signed_once_it_is_proved(desk: Desk):
    raw = made.revocation("alpha", desk.world.bundle)
    desk.world.put(Submission(raw))
    assert desk.directory.listing()[1] == []
    desk.publish()
    ((statement, proof),) = desk.directory.listing()[1]
    assert statement == raw
    verify_tlog_proof(proof, entry_of(raw), desk.log.policy)
    assert desk.directory.listing(OTHER_MODEL)[1] == []


def test_new_bundles_appear_and_pages_do_not_hide_any(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "_PAGE", 2)
    expected = [desk.world.bundle]
    for hours in range(1, 6):
        expected.append(desk.put("beta", not_after=made.NOW + hours * made.HOUR))
        if hours % 2:
            assert desk.entries(now=made.NOW) == expected
    assert desk.entries(now=made.NOW) == expected


def test_many_may_ask_at_once(desk: Desk):
    expected = [desk.world.bundle, desk.put("beta")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: desk.entries(), range(12)))
    assert answers == [expected] * 12


def test_a_directory_that_starts_anew_lists_the_same(desk: Desk):
    desk.put("beta")
    again = Directory(desk.world.trail, desk.log.proofs())
    assert [item.entry for item in again.key_bundles()] == desk.entries()
