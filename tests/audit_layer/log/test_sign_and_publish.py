"""What publication promises: one history, fail-closed witnessing, files last, stop rules."""

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from audit_layer.log.fsck import check
from audit_layer.log.fsck_outside import Outside
from audit_layer.log.sequencer import Sequencer
from audit_layer.log.sign_and_publish import Publisher
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE, InjectedFault
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import verify_witnessed
from shared.translog.proofs import verify_consistency
from shared.translog.signed_checkpoint import sign
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.log.world import (
    LOG_SIGNERS,
    NODE,
    ORIGIN,
    World,
    entry,
    make_world,
    numbered,
)


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    yield made
    made.close()


@pytest.fixture
def wide(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = make_world(
        engine, tmp_path, names=["w1.example", "w2.example", "w3.example"], threshold=2
    )
    yield made
    made.close()


def code_of(error: pytest.ExceptionInfo[CounterfoilError]) -> Code:
    return error.value.code


async def test_what_was_sequenced_is_published_witnessed_and_provable_offline(world: World):
    publisher = world.publisher()
    for first, end in ((0, 3), (3, 300), (300, 1200)):
        world.append(first, end)
        witnessed = await publisher.publish()
        assert witnessed is not None
        assert witnessed.checkpoint.size == end
    for number in (0, 2, 255, 256, 511, 1023, 1199):
        text_ = world.proofs().tlog_proof(numbered(number).entry)
        verified = verify_tlog_proof(text_, numbered(number).entry, world.policy)
        assert (verified.index, verified.checkpoint.size) == (number, 1200)
        assert world.proofs().tlog_proof(number) == text_
    assert world.fsck() == []


async def test_an_empty_log_signs_nothing_and_an_idle_one_signs_nothing_twice(world: World):
    publisher = world.publisher()
    assert await publisher.publish() is None
    assert world.files.checkpoint() is None
    world.append(0, 1)
    await publisher.publish()
    assert await publisher.publish() is None
    assert world.sizes() == [1]


async def test_without_a_quorum_nothing_is_witnessed_and_nothing_larger_is_signed(wide: World):
    publisher = wide.publisher()
    wide.append(0, 5)
    await publisher.publish()
    wide.witnesses[0].down = wide.witnesses[2].down = True
    wide.append(5, 9)
    with pytest.raises(CounterfoilError) as caught:
        await publisher.publish()
    assert code_of(caught) is Code.NOT_WITNESSED
    wide.append(9, 12)
    with pytest.raises(CounterfoilError):
        await publisher.publish()
    assert wide.sizes() == [5, 9]
    assert verify_witnessed(wide.files.checkpoint() or "", wide.policy).checkpoint.size == 5
    with pytest.raises(CounterfoilError) as caught:
        wide.proofs().tlog_proof(numbered(7).entry)
    assert code_of(caught) is Code.NOT_WITNESSED
    assert caught.value.retry_after_s is not None
    wide.witnesses[0].down = False
    witnessed = await publisher.publish()
    assert witnessed is not None
    assert witnessed.checkpoint.size == 12
    assert set(witnessed.times) == {"w1.example", "w2.example"}
    wide.witnesses[2].down = False
    wide.append(12, 20)
    await publisher.publish()
    assert wide.fsck() == []


async def test_before_its_first_signature_a_publisher_hears_a_quorum_of_witnesses(wide: World):
    wide.append(0, 5)
    wide.witnesses[0].down = wide.witnesses[1].down = True
    with pytest.raises(CounterfoilError) as caught:
        await wide.publisher().publish()
    assert code_of(caught) is Code.UNAVAILABLE
    assert wide.sizes() == []


async def test_a_proof_for_something_the_log_lacks_is_not_found(world: World):
    world.append(0, 2)
    await world.publisher().publish()
    for wrong in (entry("nowhere"), -1):
        with pytest.raises(CounterfoilError) as caught:
            world.proofs().tlog_proof(wrong)
        assert code_of(caught) is Code.NOT_FOUND


async def test_a_database_behind_the_second_place_stops_the_log(world: World, owner: Engine):
    world.append(0, 10)
    await world.publisher().publish()
    _empty_database(owner)
    world.append(0, 4)
    with pytest.raises(CounterfoilError) as caught:
        await world.publisher().publish()
    assert code_of(caught) is Code.FORK
    assert world.sizes() == []


async def test_a_restored_backup_behind_its_witness_signs_nothing(world: World, owner: Engine):
    world.append(0, 10)
    await world.publisher().publish()
    _empty_database(owner)
    (world.folder / "second" / "signed.note").unlink()
    world.append(0, 4)
    for _ in range(2):  # the evidence stays: also the next process refuses
        with pytest.raises(CounterfoilError) as caught:
            await world.publisher().publish()
        assert code_of(caught) is Code.FORK
    assert world.sizes() == []


async def test_another_history_of_the_same_length_stops_the_log(world: World, owner: Engine):
    world.append(0, 10)
    await world.publisher().publish()
    _empty_database(owner)
    Sequencer(world.engine).append([numbered(i, entry("other")) for i in range(12)])
    with pytest.raises(CounterfoilError) as caught:
        await world.publisher().publish()
    assert code_of(caught) is Code.FORK


async def test_a_lost_second_place_stops_the_log(world: World):
    world.append(0, 10)
    await world.publisher().publish()
    (world.folder / "second" / "signed.note").unlink()
    world.append(10, 11)
    with pytest.raises(CounterfoilError) as caught:
        await world.publisher().publish()
    assert code_of(caught) is Code.FORK
    assert any("second place" in str(finding) for finding in world.fsck())


async def test_a_larger_checkpoint_by_our_key_stops_the_log_permanently(world: World):
    world.append(0, 10)
    publisher = world.publisher()
    await publisher.publish()
    shown = sign(Checkpoint(ORIGIN, 11, b"\x07" * 32), LOG_SIGNERS, time_s=1).encode()
    with pytest.raises(CounterfoilError) as caught:
        publisher.observe(shown)
    assert code_of(caught) is Code.FORK
    world.append(10, 11)
    with pytest.raises(CounterfoilError) as caught:
        await world.publisher().publish()
    assert code_of(caught) is Code.FORK
    assert [finding.place for finding in world.fsck()] == ["second place"]


async def test_our_own_checkpoints_and_strangers_notes_do_not_stop_the_log(world: World):
    world.append(0, 10)
    publisher = world.publisher()
    await publisher.publish()
    publisher.observe(world.files.checkpoint() or "")
    forged = sign(Checkpoint(ORIGIN, 99, b"\x07" * 32), LOG_SIGNERS, time_s=1).encode()
    with pytest.raises(CounterfoilError) as caught:
        publisher.observe(forged.replace("\n99\n", "\n98\n"))
    assert code_of(caught) is Code.BAD_SIGNATURE
    world.append(10, 11)
    assert await publisher.publish() is not None


async def test_a_witness_that_merely_claims_to_be_ahead_withholds_only_its_own_vote(
    wide: World, monkeypatch: pytest.MonkeyPatch
):
    wide.append(0, 10)
    await wide.publisher().publish()
    liar = wide.witnesses[0].store
    liar._db.execute("UPDATE latest SET size = 999, note = 'not a note'")
    wide.append(10, 20)
    witnessed = await wide.publisher().publish()
    assert witnessed is not None
    assert set(witnessed.times) == {"w2.example", "w3.example"}
    wide.witnesses[1].down = True
    wide.append(20, 30)
    publisher = wide.publisher()
    with pytest.raises(CounterfoilError) as caught:
        await publisher.publish()
    assert code_of(caught) is Code.NOT_WITNESSED
    wide.witnesses[1].down = False
    assert await publisher.publish() is not None


async def test_published_files_never_change(world: World):
    world.append(0, 10)
    publisher = world.publisher()
    await publisher.publish()
    tile = world.folder / "public" / "tile" / "0" / "000.p" / "10"
    tile.write_bytes(b"\x00" * 320)
    assert [finding.place for finding in world.fsck()] == ["tile/0/000.p/10"]
    with pytest.raises(CounterfoilError) as caught:
        world.proofs().tlog_proof(3)
    assert code_of(caught) is Code.CORRUPT


async def test_partial_tiles_are_served_from_the_full_one_after_it_exists(world: World):
    publisher = world.publisher()
    world.append(0, 10)
    await publisher.publish()
    partial = world.files.serve("tile/0/000.p/10")
    bundle = world.files.serve("tile/entries/000.p/10")
    world.append(10, 256)
    await publisher.publish()
    assert not (world.folder / "public" / "tile" / "0" / "000.p").exists()
    assert world.files.serve("tile/0/000.p/10") == partial
    assert world.files.serve("tile/entries/000.p/10") == bundle
    assert world.files.serve("tile/0/000").body.startswith(partial.body)
    for path in ("tile/0/001", "tile/0/000.p/0", "tile/../checkpoint", "tile/9/000", "nothing"):
        with pytest.raises(CounterfoilError) as caught:
            world.files.serve(path)
        assert code_of(caught) is Code.NOT_FOUND
    assert world.fsck() == []


@pytest.mark.parametrize(
    "point",
    [
        "log.publish.before-tile",
        "log.publish.after-tile",
        "log.sign.before-second-place",
        "log.publish.before-checkpoint-file",
        "log.publish.before-cosigned",
    ],
)
async def test_a_transient_storage_failure_is_repaired_by_the_next_tick(
    world: World, point: str, monkeypatch: pytest.MonkeyPatch
):
    world.append(0, 300)
    publisher = world.publisher()
    monkeypatch.setenv(VARIABLE, f"{point}:raise")
    monkeypatch.setattr("shared.runtime.faults._reached", __import__("collections").Counter())
    with pytest.raises(InjectedFault):
        await publisher.publish()
    witnessed = await publisher.publish()
    assert witnessed is not None
    assert witnessed.checkpoint.size == 300
    assert world.sizes() == [300]
    assert world.fsck() == []


async def test_run_publishes_on_wake_and_survives_failures(world: World):
    publisher = world.publisher()
    world.witnesses[0].down = True
    task = asyncio.create_task(publisher.run())
    world.append(0, 5)
    await asyncio.sleep(0)
    world.witnesses[0].down = False
    async with asyncio.timeout(30):
        while world.files.checkpoint() is None:
            publisher.wake()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_being_woken_publishes_without_waiting_for_the_interval(world: World):
    publisher = world.publisher(interval_s=3600.0)
    first = publisher.next_published()
    world.append(0, 5)
    task = asyncio.create_task(publisher.run())
    async with asyncio.timeout(30):
        await first.wait()
        second = publisher.next_published()
        world.append(5, 6)
        publisher.wake()
        await second.wait()
    assert world.proofs().prove(5).index == 5
    task.cancel()
    await asyncio.wait({task})


async def test_being_woken_does_not_hurry_a_publication_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("audit_layer.log.sign_and_publish._MAX_BACKOFF_S", 3600.0)
    ticks = 0

    async def failing(_: Publisher) -> None:
        nonlocal ticks
        ticks += 1
        raise CounterfoilError(Code.NOT_WITNESSED, "no quorum")

    monkeypatch.setattr(Publisher, "tick", failing)
    publisher = world.publisher(interval_s=3600.0)
    task = asyncio.create_task(publisher.run())
    for _ in range(50):
        await asyncio.sleep(0)
        publisher.wake()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task})
    assert ticks == 1


async def test_run_ends_whenever_it_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch):
    async def nothing_to_do(_: Publisher) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Publisher, "tick", nothing_to_do)
    for moments in range(20):
        publisher = world.publisher()
        task = asyncio.create_task(publisher.run())
        for _ in range(moments):
            await asyncio.sleep(0)
            publisher.wake()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=10)
        assert done, moments


async def test_two_publishers_take_turns(world: World):
    world.append(0, 50)
    first, second = world.publisher(), world.publisher()
    for end in range(51, 56):
        world.append(end - 1, end)
        await asyncio.gather(first.tick(), second.tick())
    await first.publish()
    assert world.sizes()[-1] == 55
    assert world.fsck() == []


def test_a_publisher_whose_keys_are_not_its_policys_is_refused(world: World):
    with pytest.raises(CounterfoilError) as caught:
        Publisher(
            world.engine,
            signers=LOG_SIGNERS[:1],
            policy=world.policy,
            witnesses=world.witnesses,
            files=world.files,
            second_place=world.second_place,
        )
    assert code_of(caught) is Code.CONFIGURATION


def _empty_database(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(
            text("TRUNCATE log_state, log_entries, log_issuers, log_tiles, log_checkpoints")
        )


def test_the_servers_role_can_neither_change_nor_remove_an_entry(world: World):
    world.append(0, 3)
    for statement in (
        "UPDATE log_entries SET issuer_seq = 9",
        "DELETE FROM log_entries",
        "TRUNCATE log_entries",
        "DELETE FROM log_checkpoints",
        "DELETE FROM log_tiles",
    ):
        with pytest.raises(ProgrammingError, match="permission denied"), world.engine.begin() as c:
            c.execute(text(statement))


TAMPERED = [
    (
        "UPDATE log_entries SET entry = sha256(entry) WHERE index = 130",
        "log_tiles[level=0, index=0].root",
    ),
    ("UPDATE log_entries SET index = 900 WHERE index = 130", "log_entries[index=131]"),
    ("DELETE FROM log_entries WHERE index = 299", "log_state.size"),
    ("UPDATE log_tiles SET root = sha256(root)", "log_tiles[level=0, index=0].root"),
    ("DELETE FROM log_tiles", "log_tiles[level=0, index=0]"),
    ("INSERT INTO log_tiles VALUES (1, 0, sha256('x'))", "log_tiles[level=1, index=0]"),
    ("UPDATE log_issuers SET highest = 300", f"log_issuers[issuer={NODE.hex()}].highest"),
    ("UPDATE log_issuers SET held = 299", f"log_issuers[issuer={NODE.hex()}].held"),
    (
        "INSERT INTO log_entries SELECT 300, entry, issuer, 300, 0 FROM log_entries WHERE index = 7",
        "log_entries[index=300]",
    ),
    (
        "INSERT INTO log_entries SELECT 300, sha256(entry), issuer, 7, 0 FROM log_entries WHERE index = 7",
        "log_entries[index=300]",
    ),
    ("UPDATE log_state SET root = sha256(root)", "log_state.root"),
    ("UPDATE log_state SET size = 301", "log_state.size"),
    (
        "UPDATE log_checkpoints SET root = sha256(root) WHERE size = 7",
        "log_checkpoints[size=7].root",
    ),
    ("UPDATE log_checkpoints SET size = 8 WHERE size = 7", "log_checkpoints[size=8].root"),
    (
        "UPDATE log_checkpoints SET note = replace(note, '7', '9') WHERE size = 7",
        "log_checkpoints[size=7].note",
    ),
    (
        "UPDATE log_checkpoints SET cosigned_note = note WHERE size = 7",
        "log_checkpoints[size=7].cosigned_note",
    ),
    (
        "UPDATE log_checkpoints SET published_at = NULL WHERE size = 7",
        "log_checkpoints[size=7].published_at",
    ),
    (
        "UPDATE log_checkpoints SET published_at = 1 WHERE size = 7",
        "log_checkpoints[size=7].published_at",
    ),
    (
        "UPDATE log_checkpoints SET intent_at = published_at + 1000000 WHERE size = 7",
        "log_checkpoints[size=7].intent_at",
    ),
    ("DELETE FROM log_checkpoints WHERE size = 300", "checkpoint"),
]


async def test_fsck_finds_nothing_amiss_while_a_publisher_is_one_or_more_steps_ahead(
    world: World, owner: Engine
):
    publisher = world.publisher()
    world.append(0, 250)
    await publisher.publish()
    before = Outside.look(world.files, world.second_place)
    with owner.execution_options(isolation_level="REPEATABLE READ").connect() as connection:
        connection.execute(text("SELECT 1 FROM log_state"))  # the snapshot is taken here
        for first, end in ((250, 260), (260, 300)):  # a partial tile becomes full and is dropped
            world.append(first, end)
            await publisher.publish()
            findings = check(
                connection,
                policy=world.policy,
                files=world.files,
                second_place=world.second_place,
                before=before,
            )
            assert findings == []
    assert world.fsck() == []


async def test_fsck_is_not_fooled_by_a_checkpoint_file_that_only_looks_newer(world: World):
    publisher = world.publisher()
    for first, end in ((0, 7), (7, 30)):
        world.append(first, end)
        await publisher.publish()
    path = world.folder / "public" / "checkpoint"
    true = path.read_text()
    path.write_text(true.replace("\n30\n", "\n31\n", 1))
    assert [finding.place for finding in world.fsck()] == ["checkpoint"]


async def test_fsck_names_every_column_that_was_changed(world: World, owner: Engine):
    publisher = world.publisher()
    for first, end in ((0, 7), (7, 300)):
        world.append(first, end)
        await publisher.publish()
    assert world.fsck() == []
    for statement, place in TAMPERED:
        with owner.connect() as connection:
            transaction = connection.begin()
            connection.execute(text(statement))
            findings = check(
                connection, policy=world.policy, files=world.files, second_place=world.second_place
            )
            transaction.rollback()
        assert place in {finding.place for finding in findings}, (statement, findings)
    assert world.fsck() == []


async def test_fsck_names_files_that_are_missing_changed_or_strange(world: World):
    world.append(0, 300)
    await world.publisher().publish()
    public = world.folder / "public"
    full, stray = public / "tile" / "0" / "000", public / "tile" / "0" / "notes.txt"
    data = full.read_bytes()
    full.unlink()
    assert [str(finding) for finding in world.fsck()] == ["tile/0/000: missing"]
    full.write_bytes(data)
    stray.write_bytes(b"?")
    assert [finding.place for finding in world.fsck()] == ["tile/0/notes.txt"]
    stray.unlink()
    (public / "checkpoint").unlink()
    assert [finding.place for finding in world.fsck()] == ["checkpoint"]


# -- at rest ----------------------------------------------------------------------------------------------------------


async def test_a_log_at_rest_is_cosigned_again_and_its_readers_see_how_old_what_they_read_is(
    world: World,
):
    now = time.time()
    publisher = world.publisher(refresh_s=120, clock=lambda: now)
    world.append(0, 3)
    first = await publisher.publish()
    assert first is not None
    now += 100
    assert await publisher.tick() is None
    now += 30
    again = await publisher.tick()
    assert again is not None
    assert again.checkpoint == first.checkpoint
    assert again.note.signatures[:2] == first.note.signatures[:2], "the log itself signs once"
    assert world.proofs().witnessed().note == again.note
    assert world.fsck() == []
    world.append(3, 5)
    grown = await publisher.publish()
    assert grown is not None
    assert grown.checkpoint.size == 5
    assert world.fsck() == []


async def test_a_log_at_rest_whose_witness_is_away_keeps_its_last_checkpoint(world: World):
    now = time.time()
    publisher = world.publisher(refresh_s=120, clock=lambda: now)
    world.append(0, 3)
    first = await publisher.publish()
    assert first is not None
    now += 1000
    world.witnesses[0].down = True
    with pytest.raises(CounterfoilError) as caught:
        await publisher.tick()
    assert caught.value.code is Code.NOT_WITNESSED
    assert world.proofs().witnessed().note == first.note
    world.witnesses[0].down = False
    assert await publisher.tick() is not None


async def test_the_file_may_be_the_same_tree_cosigned_later_and_nothing_else(world: World):
    world.append(0, 3)
    publisher = world.publisher()
    await publisher.publish()
    world.append(3, 4)
    published = world.files.checkpoint()
    assert published is not None
    await publisher.publish()
    world.files.write_checkpoint(published)
    assert [finding.place for finding in world.fsck()] == ["checkpoint"]


async def test_any_two_published_sizes_are_proved_consistent(world: World):
    publisher = world.publisher()
    sizes = (1, 2, 255, 300)
    roots = {}
    for before, size in pairwise((0, *sizes)):
        world.append(before, size)
        witnessed = await publisher.publish()
        assert witnessed is not None
        roots[size] = witnessed.checkpoint.root
    proofs = world.proofs()
    for old in sizes:
        for new in sizes[sizes.index(old) :]:
            verify_consistency(old, roots[old], new, roots[new], proofs.consistency(old, new))
    for old, new, code in (
        (0, 1, Code.INVALID_ARGUMENT),
        (2, 1, Code.INVALID_ARGUMENT),
        (1, 301, Code.NOT_WITNESSED),
    ):
        with pytest.raises(CounterfoilError) as caught:
            proofs.consistency(old, new)
        assert caught.value.code is code
