"""What the sequencer promises: dense indexes, permanent idempotency, no fork, nothing half-done."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from audit_layer.log.sequencer import Sequenced, Sequencer, Submission
from audit_layer.log.tile_table import fetch_from, read_state
from audit_layer.storage.engine import make_engine
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import TreeEdge
from shared.translog.tree import EMPTY_ROOT, leaf_hash, root
from tests.audit_layer.log.world import NODE, entry, numbered


def stored(engine: Engine) -> list[bytes]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT index, entry FROM log_entries ORDER BY index")).all()
    assert [index for index, _ in rows] == list(range(len(rows)))
    return [bytes(value) for _, value in rows]


def assert_state_matches_entries(engine: Engine) -> list[bytes]:
    entries = stored(engine)
    with engine.begin() as connection:
        size, head = read_state(connection)
        assert TreeEdge.load(size, fetch_from(connection)).root() == head
    assert size == len(entries)
    assert head == root([leaf_hash(value) for value in entries])
    return entries


def indexes(results: Sequence[object]) -> list[int]:
    assert all(isinstance(result, Sequenced) for result in results)
    return [result.index for result in results if isinstance(result, Sequenced)]


def test_batches_get_dense_indexes_and_the_root_of_their_entries(engine: Engine):
    sequencer = Sequencer(engine)
    assert indexes(sequencer.append([numbered(i) for i in range(3)])) == [0, 1, 2]
    assert indexes(sequencer.append([numbered(i) for i in range(3, 700)])) == list(range(3, 700))
    assert indexes(sequencer.append([numbered(700)])) == [700]
    assert assert_state_matches_entries(engine) == [numbered(i).entry for i in range(701)]


def test_an_empty_log_has_the_empty_root_and_an_empty_batch_changes_nothing(engine: Engine):
    assert Sequencer(engine).append([]) == []
    with engine.begin() as connection:
        assert read_state(connection) == (0, EMPTY_ROOT)


def test_the_same_statement_keeps_its_index_forever_and_across_processes(engine: Engine):
    Sequencer(engine).append([numbered(i) for i in range(5)])
    again = Sequencer(engine).append([numbered(9), numbered(3), numbered(9), numbered(0)])
    assert again == [
        Sequenced(numbered(9).entry, 5, duplicate=False),
        Sequenced(numbered(3).entry, 3, duplicate=True),
        Sequenced(numbered(9).entry, 5, duplicate=True),
        Sequenced(numbered(0).entry, 0, duplicate=True),
    ]
    assert len(assert_state_matches_entries(engine)) == 6


def test_statements_without_a_number_are_known_by_their_entry(engine: Engine):
    sequencer = Sequencer(engine)
    first = Submission(entry("bundle 1"), NODE, None)
    second = Submission(entry("bundle 2"), NODE, None)
    assert indexes(sequencer.append([first, second, first])) == [0, 1, 0]
    assert indexes(sequencer.append([second])) == [1]


def test_two_entries_under_one_number_are_an_equivocation_of_that_submission_alone(engine: Engine):
    sequencer = Sequencer(engine)
    sequencer.append([numbered(0)])
    other = Submission(entry("other"), NODE, 0)
    in_batch = Submission(entry("other 1"), NODE, 1)
    results = sequencer.append([other, numbered(1), in_batch, numbered(2)])
    for position, held in ((0, numbered(0)), (2, numbered(1))):
        error = results[position]
        assert isinstance(error, CounterfoilError)
        assert error.code is Code.EQUIVOCATION
        assert error.metadata["entry"] == held.entry.hex()
    assert indexes([results[1], results[3]]) == [1, 2]
    assert len(assert_state_matches_entries(engine)) == 3


def test_the_hook_shares_the_transaction_and_its_failure_rolls_all_back(
    engine: Engine, owner: Engine
):
    with owner.begin() as connection:
        connection.execute(text("CREATE TABLE hook (entry bytea, word text)"))
        connection.execute(text("GRANT SELECT, INSERT ON hook TO PUBLIC"))
    seen: list[tuple[str, bool]] = []

    def hook(connection: Connection, placed: Sequence[tuple[Submission, Sequenced]]) -> None:
        for item, result in placed:
            seen.append((str(item.attachment), result.duplicate))
            connection.execute(
                text("INSERT INTO hook VALUES (:entry, :word)"),
                {"entry": result.entry, "word": item.attachment},
            )
        if any(item.attachment == "boom" for item, _ in placed):
            raise RuntimeError("boom")

    sequencer = Sequencer(engine)
    good = Submission(entry("good"), NODE, 0, "good")
    sequencer.append([good], in_transaction=hook)
    with pytest.raises(RuntimeError):
        sequencer.append([Submission(entry("bad"), NODE, 1, "boom")], in_transaction=hook)
    sequencer.append([good, numbered(1)], in_transaction=hook)
    assert seen[-2:] == [("good", True), ("None", False)]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM hook")).scalar_one() == 3
    assert assert_state_matches_entries(engine) == [good.entry, numbered(1).entry]


@pytest.mark.parametrize("advisory_lock", [True, False])
def test_two_sequencers_racing_do_not_fork(engine: Engine, advisory_lock: bool):
    barrier = threading.Barrier(2)

    def race(which: int) -> list[int]:
        sequencer = Sequencer(engine, advisory_lock=advisory_lock)
        barrier.wait()
        got: list[int] = []
        for round_ in range(12):
            batch = [numbered(round_ * 10 + i, entry(which)) for i in range(7)]
            got += indexes(_until_it_works(sequencer, batch))
        return got

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(race, range(2))
    assert sorted(first + second) == list(range(168))
    assert_state_matches_entries(engine)


def _until_it_works(sequencer: Sequencer, batch: list[Submission]) -> Sequence[object]:
    while True:
        try:
            return sequencer.append(batch)
        except CounterfoilError as e:
            if not e.code.value.retryable:
                raise


def test_a_state_that_the_tiles_do_not_lead_to_is_refused(engine: Engine, owner: Engine):
    Sequencer(engine).append([numbered(i) for i in range(300)])
    with owner.begin() as connection:
        connection.execute(text("UPDATE log_tiles SET root = sha256(root)"))
    with pytest.raises(CounterfoilError) as caught:
        Sequencer(engine).append([numbered(300)])
    assert caught.value.code is Code.CORRUPT
    assert len(stored(engine)) == 300


@pytest.mark.parametrize(
    ("value", "issuer", "number"),
    [(b"short", NODE, 0), (NODE, b"", 0), (NODE, NODE, -1), (NODE, NODE, 2**63)],
)
def test_submissions_outside_their_bounds_are_refused(value: bytes, issuer: bytes, number: int):
    with pytest.raises(CounterfoilError):
        Submission(value, issuer, number)


def test_a_database_that_is_down_is_unavailable_and_retryable(tmp_path: Path):
    away = make_engine(f"postgresql://nobody@/nowhere?host={tmp_path}")
    with pytest.raises(CounterfoilError) as caught:
        Sequencer(away).append([numbered(0)])
    assert caught.value.code is Code.UNAVAILABLE
    away.dispose()
