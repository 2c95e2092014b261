"""Reads the audit server's JSON answers: strictly, believing none of them. Pure."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeVar

from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.codec.ids import NAME, parse_hex32
from shared.runtime.errors import CounterfoilError

T = TypeVar("T")
PAGE: Final = 100
"""Items per request."""
_MAX_INDEX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Listed:
    """A statement that the server lists, and its claimed place in the log."""

    entry: bytes
    index: int
    type: str | None = None
    raw: bytes | None = None
    """The statement itself, if the list carries it."""


@dataclass(frozen=True, slots=True)
class Page:
    """Items by ascending index, and whether more may follow."""

    items: tuple[Listed, ...]
    more: bool


def read_page(body: bytes, after: int, path: str, *, raw: bool) -> Page:
    """Read the page of statements after `after`; FoundError when it is not one.

    With `raw`, each item must carry its type and its bytes.
    """

    def page(data: Any) -> Page:
        items = tuple(_listed(item, raw=raw) for item in _bounded(data["items"]))
        indexes = [after, *(item.index for item in items)]
        if any(later <= earlier for earlier, later in pairwise(indexes)):
            raise ValueError("indexes do not ascend")
        return Page(items, more=data["next"] is not None and bool(items))

    return _read(body, path, page)


def read_statement(body: bytes, path: str) -> bytes:
    """Read the signed bytes of one statement; FoundError when there are none."""
    return _read(body, path, lambda data: _base64(data["raw"]))


def _read(body: bytes, path: str, reader: Callable[[Any], T]) -> T:
    try:
        return reader(json.loads(body))
    except (ValueError, KeyError, TypeError, RecursionError, CounterfoilError) as error:
        raise FoundError(
            Finding(
                Kind.MALFORMED,
                f"answer to {path}",
                f"the answer to {path} is not what the query API promises ({error})"[:300],
            )
        ) from error


def _bounded(items: Any) -> list[Any]:
    if not isinstance(items, list) or len(items) > PAGE:
        raise ValueError(f"items are not a list of at most {PAGE}")
    return items


def _listed(item: Any, *, raw: bool) -> Listed:
    entry, index = item["entry"], item["log_index"]
    if type(index) is not int or not 0 <= index <= _MAX_INDEX or not isinstance(entry, str):
        raise ValueError("an item has no index or no entry")
    if not raw:
        return Listed(parse_hex32(entry, "an entry"), index)
    kind = item["type"]
    if not isinstance(kind, str) or not NAME.fullmatch(kind):
        raise ValueError("an item has no type")
    return Listed(parse_hex32(entry, "an entry"), index, kind, _base64(item["raw"]))


def _base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("bytes are not base64")  # noqa: TRY004  # one error for all of it
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("bytes are not base64") from error
