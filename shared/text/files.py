"""The files of a model folder, read strictly: each has a size limit, is a regular file, and its JSON is unambiguous."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded

MIB = 1 << 20
LARGEST: Final = {
    "config.json": MIB,
    "generation_config.json": MIB,
    "tokenizer.json": 64 * MIB,
    "tokenizer_config.json": 8 * MIB,
    "chat_template.jinja": MIB,
    "model.safetensors.index.json": 8 * MIB,
    "part.json": 16 * MIB,
}
"""Size limits in bytes, several times what the largest of today's models need."""


def read_file(path: Path) -> bytes | None:
    """Return the content of one of those files, or None if there is none.
    Links are followed wherever they lead, since the hub's cache consists of them and the model root binds the content; a
    dangling link is an error, not an absent file. CONFIGURATION for anything but a readable regular file,
    MALFORMED for one that is too large.
    """
    if not os.path.lexists(path):
        return None
    most = LARGEST[path.name]
    data = read_bounded(path, most, regular=True)
    if len(data) > most:
        raise CounterfoilError(
            Code.MALFORMED, f"{path} is larger than {most >> 20} MiB, the most for such a file"
        )
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; CONFIGURATION if there is no file, MALFORMED if it does not hold an object."""
    data = read_file(path)
    if data is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} is missing",
            remedy="A model folder holds config.json, tokenizer.json and model.safetensors; "
            "`counterfoil model fetch` makes one from the hub.",
        )
    try:
        parsed = parse_json(data)
    except (ValueError, RecursionError) as error:
        why = f": {error}" if isinstance(error, AmbiguousJsonError) else ""
        raise CounterfoilError(Code.MALFORMED, f"{path} is not JSON{why}") from error
    if not isinstance(parsed, dict):
        raise CounterfoilError(Code.MALFORMED, f"{path} is not a JSON object")
    return parsed


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Like `read_json`, but returns an empty object if there is no such file."""
    return read_json(path) if os.path.lexists(path) else {}


def shown(name: str) -> str:
    """Return a name from a file as messages show it: short, and without terminal controls."""
    return name if name.isascii() and name.isprintable() and len(name) <= 80 else f"{name!a:.80}"


class AmbiguousJsonError(ValueError):
    """A text that JSON parsers interpret differently."""


def parse_json(data: bytes) -> Any:
    """Parse JSON in UTF-8; ValueError for anything else, RecursionError if it is nested too deeply.
    AmbiguousJsonError, a ValueError, for an object with a duplicate name (parsers differ in which value they take), and
    for numbers that are not valid or that a float cannot hold.
    """
    return json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_float=_finite,
        parse_constant=_no_number,
    )


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise AmbiguousJsonError(f"{twice!a:.80} occurs twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise AmbiguousJsonError(f"{text[:20]} is more than a float can hold")
    return value


def _no_number(text: str) -> NoReturn:
    raise AmbiguousJsonError(f"{text} is not a number")
