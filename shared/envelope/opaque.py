"""The one failure of opening: a peer that could tell two failures apart could use our keys as an oracle."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.runtime.errors import Code, CounterfoilError


def unreadable() -> CounterfoilError:
    """Return the error for anything that does not open, whatever the reason."""
    return CounterfoilError(Code.UNREADABLE, "the sealed data cannot be opened")


@contextmanager
def opening() -> Iterator[None]:
    """Turn every catalogued failure inside into the one that reveals nothing.

    That the recipient's key store does not answer is none of the data: it stays UNAVAILABLE, and nobody is blamed for it.
    """
    try:
        yield
    except CounterfoilError as error:
        if error.code is Code.UNAVAILABLE:
            raise
        raise unreadable() from error
