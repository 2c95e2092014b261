"""The JSON files of a model folder, read strictly."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.runtime.errors import Code, CounterfoilError

MAX_FILE = 1 << 20


def read_json(path: Path, *, most: int = MAX_FILE) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes in which no name stands twice; CONFIGURATION says that it is not there."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} cannot be read: {error.strerror}",
            remedy="A model folder holds config.json, tokenizer.json and model.safetensors; "
            "`counterfoil model fetch` makes one from the hub.",
        ) from error
    try:
        parsed = parse_json(data) if len(data) <= most else None
    except (ValueError, RecursionError) as error:
        why = f": {error}" if isinstance(error, DuplicateNameError) else ""
        raise CounterfoilError(Code.MALFORMED, f"{path} is not JSON{why}") from error
    if not isinstance(parsed, dict):
        raise CounterfoilError(
            Code.MALFORMED, f"{path} is not a JSON object of at most {most >> 20} MiB"
        )
    return parsed


class DuplicateNameError(ValueError):
    """A JSON object has one name twice; readers differ in which value they take."""


def parse_json(data: bytes) -> Any:
    """Parse JSON; DuplicateNameError (a ValueError) for an object with a name that stands twice."""
    return json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DuplicateNameError(f"{twice[:80]!r} stands twice")
    return found
