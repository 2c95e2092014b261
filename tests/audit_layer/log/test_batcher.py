"""Group commit: few transactions under load, no waiting when alone, every caller answered."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait

import pytest
from sqlalchemy import Connection, Engine

from audit_layer.log.batcher import Batcher
from audit_layer.log.sequencer import Hook, Result, Sequenced, Sequencer, Submission
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.log.world import NODE, entry, numbered


class CountingSequencer(Sequencer):
    """The real sequencer; it counts its batches and can be held back."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def append(
        self, batch: Sequence[Submission], *, in_transaction: Hook | None = None
    ) -> list[Result]:
        self.entered.set()
        self.gate.wait(20)
        self.batches.append(len(batch))
        return super().append(batch, in_transaction=in_transaction)


def indexes(future: Future[list[Result]]) -> list[int]:
    return [result.index for result in future.result(20) if isinstance(result, Sequenced)]


def test_what_queues_up_during_a_commit_is_committed_together(engine: Engine):
    sequencer = CountingSequencer(engine)
    sequencer.gate.clear()
    batcher = Batcher(sequencer)
    first = batcher.submit([numbered(0)])
    sequencer.entered.wait(20)
    later = [batcher.submit([numbered(2 * i + 1), numbered(2 * i + 2)]) for i in range(100)]
    sequencer.gate.set()
    wait([first, *later], 20)
    assert indexes(first) == [0]
    assert [indexes(future) for future in later] == [[2 * i + 1, 2 * i + 2] for i in range(100)]
    assert sequencer.batches == [1, 200]
    batcher.close()


def test_groups_are_never_split_and_batches_keep_their_limit(engine: Engine):
    sequencer = CountingSequencer(engine)
    sequencer.gate.clear()
    batcher = Batcher(sequencer, max_batch=10)
    futures = [batcher.submit([numbered(0)])]
    sequencer.entered.wait(20)
    futures += [batcher.submit([numbered(4 * n + i) for i in range(1, 5)]) for n in range(5)]
    sequencer.gate.set()
    wait(futures, 20)
    assert sequencer.batches == [1, 8, 8, 4]
    with pytest.raises(CounterfoilError) as caught:
        batcher.submit([numbered(i) for i in range(11)])
    assert caught.value.code is Code.INVALID_ARGUMENT
    batcher.close()


def test_a_full_queue_refuses_and_a_closed_batcher_finishes_what_it_took(engine: Engine):
    sequencer = CountingSequencer(engine)
    sequencer.gate.clear()
    batcher = Batcher(sequencer, max_queue=3)
    taken = [batcher.submit([numbered(0)])]
    sequencer.entered.wait(20)
    taken += [batcher.submit([numbered(i)]) for i in (1, 2, 3)]
    with pytest.raises(CounterfoilError) as caught:
        batcher.submit([numbered(4)])
    assert caught.value.code is Code.OVERLOADED
    closer = threading.Thread(target=batcher.close)
    closer.start()
    sequencer.gate.set()
    closer.join(20)
    assert [indexes(future) for future in taken] == [[0], [1], [2], [3]]
    with pytest.raises(CounterfoilError) as caught:
        batcher.submit([numbered(4)])
    assert caught.value.code is Code.DRAINING


def test_one_callers_poison_does_not_fail_the_others(engine: Engine):
    def hook(_: Connection, placed: Sequence[tuple[Submission, Sequenced]]) -> None:
        if any(item.attachment == "poison" for item, _ in placed):
            raise ValueError("poison")

    sequencer = CountingSequencer(engine)
    sequencer.gate.clear()
    batcher = Batcher(sequencer, in_transaction=hook)
    futures = [batcher.submit([numbered(0)])]
    sequencer.entered.wait(20)
    for number in range(1, 9):
        word = "poison" if number == 5 else None
        futures.append(batcher.submit([Submission(entry(number), NODE, number, word)]))
    sequencer.gate.set()
    wait(futures, 20)
    with pytest.raises(ValueError, match="poison"):
        futures[5].result()
    good = [indexes(future) for number, future in enumerate(futures) if number != 5]
    assert good == [[i] for i in range(8)]
    batcher.close()


def test_each_submission_gets_its_own_result(engine: Engine):
    batcher = Batcher(Sequencer(engine))
    batcher.submit([numbered(0)]).result(20)
    other = Submission(entry("other"), NODE, 0)
    results = batcher.submit([numbered(0), other, numbered(1)]).result(20)
    assert results[0] == Sequenced(numbered(0).entry, 0, duplicate=True)
    assert isinstance(results[1], CounterfoilError)
    assert results[2] == Sequenced(numbered(1).entry, 1, duplicate=False)
    batcher.close()


def test_what_somebody_awaits_is_told_once_when_it_is_new(engine: Engine):
    told: list[str] = []
    batcher = Batcher(Sequencer(engine))
    batcher.tell(lambda: told.append("awaited"))
    awaited = [Submission(entry(name), NODE, None, awaited=True) for name in "abc"]
    batcher.submit([numbered(0), numbered(1)]).result(20)
    batcher.submit([*awaited[:2], numbered(2)]).result(20)
    batcher.submit(awaited[:2]).result(20)
    batcher.tell(None)
    batcher.submit(awaited[2:]).result(20)
    batcher.close()
    assert told == ["awaited"]


async def test_a_cancelled_caller_takes_nothing_back(engine: Engine):
    sequencer = CountingSequencer(engine)
    sequencer.gate.clear()
    batcher = Batcher(sequencer)
    call = asyncio.create_task(batcher.append([numbered(0)]))
    await asyncio.to_thread(sequencer.entered.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    sequencer.gate.set()
    assert await batcher.append([numbered(0), numbered(1)]) == [
        Sequenced(numbered(0).entry, 0, duplicate=True),
        Sequenced(numbered(1).entry, 1, duplicate=False),
    ]
    await asyncio.to_thread(batcher.close)
