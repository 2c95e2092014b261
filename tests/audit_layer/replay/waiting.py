"""Waiting for what another process does; the limits only bound a failure."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(found: Callable[[], T], limit_s: float = 60.0) -> T:
    """Ask again until the answer is true; return it."""
    end = time.monotonic() + limit_s
    while not (answer := found()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return answer
