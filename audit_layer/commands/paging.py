"""Lists of the query API, page after page."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from shared.runtime.errors import Code, CounterfoilError

Ask = Callable[..., Any]
"""`ask(path, **parameters)` returns the query API's JSON answer, or raises its error."""
PAGE: Final = 1000
"""Items per request, as many as the server gives."""


def pages(ask: Ask, path: str, after: int, limit: int = PAGE, **parameters: Any) -> Iterator[Any]:
    """Yield the items of a list that follow a log index, oldest first; MALFORMED if its pages do not advance."""
    at: int | None = after
    while at is not None:
        page = ask(path, after=at, limit=limit, **parameters)
        yield from page["items"]
        following = page["next"]
        if following is not None and following <= at:
            raise CounterfoilError(
                Code.MALFORMED,
                f"an answer is not what the query API promises ({path} does not advance)",
            )
        at = following
