"""A fuzzer that watches which code of the judge each case reaches, and lies on from those that reached something new.

    python -m tests.hostile.fuzz [-runs=N] [-max_total_time=S] [CORPUS]

Options are libFuzzer's; it stops at the first problem and keeps the input that leads to it.
"""

import sys

import atheris

with atheris.instrument_imports(
    include=["audit_layer.replay", "shared.envelope", "shared.statements", "shared.codec"]
):
    from tests.hostile.court import Tally, doubled_node, limit, try_case
    from tests.hostile.forge import Forger

LONGEST = 4096
"""Bytes of decisions: far more than three lies take."""
FORGER = Forger(doubled_node())


class Guided:
    """Decisions from the fuzzer's bytes; when they run out, the lowest."""

    def __init__(self, data: bytes) -> None:
        self._data = atheris.FuzzedDataProvider(data)

    def integer(self, low: int, high: int) -> int:
        """Return an integer with low <= value <= high."""
        return int(self._data.ConsumeIntInRange(low, high))


def one(data: bytes) -> None:
    """Try the case that these bytes decide on."""
    tally = Tally()
    try_case(FORGER, Guided(data), tally, data.hex())
    if tally.problems:
        raise AssertionError(tally.problems[0])


if __name__ == "__main__":
    # libFuzzer's own limit reads the peak that a process inherits from whoever started it (getrusage(2)).
    own = [f"-max_len={LONGEST}", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *own, *sys.argv[1:]], one)
    limit()
    atheris.Fuzz()
