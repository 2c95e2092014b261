"""Calls of the tokenizers package, whose faults are bare exceptions, and panics that are no exceptions at all."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.runtime.errors import Code, CounterfoilError


@contextmanager
def told_as(code: Code, detail: str) -> Iterator[None]:
    """Raise whatever the library fails with, a panic too, as one error."""
    try:
        yield
    except (CounterfoilError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise CounterfoilError(code, detail) from error
