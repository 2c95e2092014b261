"""COSE Receipts at once: they prove the entry under a root that this log cannot take back."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, text

from audit_layer.log.batcher import Batcher
from audit_layer.log.checkpoint_table import History
from audit_layer.log.cose_receipts import Receipts
from audit_layer.log.fork_check import check_history
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.sequencer import Result, Sequenced, Sequencer
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.cose_receipt import verify_receipt
from tests.audit_layer.log.world import LOG_KEYS, LOG_SIGNERS, make_world, numbered

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture
def place(tmp_path: Path) -> SecondPlace:
    return SecondPlace(tmp_path / "second" / "signed.note", LOG_KEYS)


def batcher_of(engine: Engine, place: SecondPlace) -> Batcher:
    return Batcher(
        Sequencer(engine, guard=lambda connection: check_history(History(connection), place)),
        receipts=Receipts(LOG_SIGNERS, KEY, place),
    )


def submit(batcher: Batcher, first: int, end: int) -> list[Result]:
    return batcher.submit([numbered(i) for i in range(first, end)], receipts=True).result(30)


def assert_receipts(results: list[Result], size: int) -> None:
    for result in results:
        assert isinstance(result, Sequenced)
        receipt = verify_receipt(result.receipt or b"", result.entry, PUBLIC)
        assert (receipt.index, receipt.size) == (result.index, size)


def test_every_entry_of_a_batch_gets_a_receipt_under_the_batchs_root(
    engine: Engine, place: SecondPlace
):
    batcher = batcher_of(engine, place)
    size = 0
    for end in (1, 2, 255, 256, 257, 900, 1800):
        assert_receipts(submit(batcher, size, end), end)
        kept = place.read()
        assert kept is not None
        assert kept[0].size == end
        size = end
    batcher.close()


def test_what_is_in_the_log_already_gets_a_receipt_too(engine: Engine, place: SecondPlace):
    Sequencer(engine).append([numbered(i) for i in range(700)])
    batcher = batcher_of(engine, place)
    assert_receipts(submit(batcher, 3, 5), 700)
    assert_receipts(submit(batcher, 699, 702), 702)
    batcher.close()


def test_nobody_who_did_not_ask_gets_a_receipt_and_none_is_issued_without_keys(
    engine: Engine, place: SecondPlace
):
    batcher = batcher_of(engine, place)
    (plain,) = batcher.submit([numbered(0)]).result(30)
    assert isinstance(plain, Sequenced)
    assert plain.receipt is None
    batcher.close()
    without = Batcher(Sequencer(engine))
    with pytest.raises(CounterfoilError) as caught:
        without.submit([numbered(0)], receipts=True)
    assert caught.value.code is Code.UNSUPPORTED
    without.close()


def test_a_database_behind_the_second_place_accepts_nothing(
    engine: Engine, owner: Engine, place: SecondPlace
):
    batcher = batcher_of(engine, place)
    submit(batcher, 0, 20)
    batcher.close()
    with owner.begin() as connection:
        connection.execute(text("TRUNCATE log_state, log_entries, log_issuers, log_tiles"))
    Sequencer(engine).append([numbered(i) for i in range(5)])
    restarted = batcher_of(engine, place)
    with pytest.raises(CounterfoilError) as caught:
        submit(restarted, 5, 6)
    assert caught.value.code is Code.FORK
    restarted.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM log_entries")).scalar_one() == 5


async def test_receipts_and_publication_share_one_history(
    engine: Engine, tmp_path: Path, place: SecondPlace
):
    world = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    batcher = batcher_of(engine, place)
    publisher = world.publisher()
    for first, end in ((0, 3), (3, 300), (300, 301)):
        assert_receipts(submit(batcher, first, end), end)
        await publisher.publish()
    assert world.sizes() == [3, 300, 301]
    assert world.fsck() == []
    assert_receipts(submit(batcher, 301, 400), 400)
    assert world.fsck() == []  # signed at 400, published at 301
    await world.publisher().publish()
    assert world.fsck() == []
    batcher.close()
    world.close()


def test_a_second_place_that_cannot_be_written_gives_no_receipt_but_the_entry_is_there(
    engine: Engine, place: SecondPlace, tmp_path: Path
):
    batcher = batcher_of(engine, place)
    submit(batcher, 0, 1)
    kept = tmp_path / "second" / "signed.note"
    away = kept.rename(tmp_path / "away")
    kept.mkdir()
    with pytest.raises(CounterfoilError) as caught:
        submit(batcher, 1, 2)
    assert caught.value.code is Code.UNAVAILABLE
    kept.rmdir()
    away.rename(kept)
    (again,) = results = submit(batcher, 1, 2)
    assert_receipts(results, 2)
    assert isinstance(again, Sequenced)
    assert again.duplicate
    batcher.close()
