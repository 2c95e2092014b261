"""The one failure of opening: a peer that can tell two of them apart can ask questions of our keys."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.runtime.errors import Code, CounterfoilError


def unreadable() -> CounterfoilError:
    """Return the error of everything that does not open, whatever the reason."""
    return CounterfoilError(Code.UNREADABLE, "the sealed data cannot be opened")


@contextmanager
def opening() -> Iterator[None]:
    """Turn every catalogued failure inside into the one that says nothing."""
    try:
        yield
    except CounterfoilError as error:
        raise unreadable() from error
