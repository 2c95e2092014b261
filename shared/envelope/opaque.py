"""The one failure of opening: a peer that could tell two failures apart could use our keys as an oracle."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.runtime.errors import Code, CounterfoilError


def unreadable() -> CounterfoilError:
    """Return the error for anything that does not open, whatever the reason."""
    return CounterfoilError(Code.UNREADABLE, "the sealed data cannot be opened")


@contextmanager
def opening() -> Iterator[None]:
    """Turn every catalogued failure inside into the one that reveals nothing."""
    try:
        yield
    except CounterfoilError as error:
        raise unreadable() from error
