"""JSON from a stranger, read so that it has one meaning only."""

import json
from typing import Any, NoReturn


def strict_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8 whose objects have each member once, and whose numbers are JSON's.

    Errors: ValueError, and RecursionError for what is nested too deeply.
    """
    return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a member occurs twice")
    return values


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
