"""One of two sequencers that share a database, in a process of its own."""

import random
from pathlib import Path

from audit_layer.log.sequencer import Sequenced, Sequencer
from audit_layer.storage.engine import make_engine
from shared.runtime.errors import CounterfoilError
from tests.audit_layer.log.world import entry, numbered

COMMON = 150
OWN = 50


def append_all(dsn: str, told: str, which: int, advisory_lock: bool) -> None:
    """Append what both have and what only this one has, in its own order; write down each (entry, index)."""
    rng = random.Random(which)
    items = [numbered(number) for number in range(COMMON)]
    items += [numbered(number, entry(which)) for number in range(OWN)]
    rng.shuffle(items)
    engine = make_engine(dsn)
    sequencer = Sequencer(engine, advisory_lock=advisory_lock)
    lines: list[str] = []
    while items:
        batch = items[: rng.randint(1, 9)]
        try:
            results = sequencer.append(batch)
        except CounterfoilError as error:
            if not error.code.value.retryable:
                raise
            continue
        for result in results:
            assert isinstance(result, Sequenced), result
            lines.append(f"{result.entry.hex()} {result.index}\n")
        items = items[len(batch) :]
    engine.dispose()
    Path(told).write_text("".join(lines))
