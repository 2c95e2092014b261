"""Calls to the tokenizers package, whose errors are bare exceptions, and panics that are not even `Exception`s."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.runtime.errors import Code, CounterfoilError


@contextmanager
def told_as(code: Code, detail: str) -> Iterator[None]:
    """Turn any failure of the library, including a panic, into one error."""
    try:
        yield
    except (CounterfoilError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise CounterfoilError(code, detail) from error
