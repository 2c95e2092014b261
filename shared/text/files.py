"""The files of a model folder, read strictly: each has a largest size, is a regular file, and JSON has one meaning."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from shared.runtime.config import read_bounded
from shared.runtime.errors import Code, CounterfoilError

MIB = 1 << 20
LARGEST: Final = {
    "config.json": MIB,
    "generation_config.json": MIB,
    "tokenizer.json": 64 * MIB,
    "tokenizer_config.json": 8 * MIB,
    "chat_template.jinja": MIB,
    "model.safetensors.index.json": 8 * MIB,
}
"""The bytes that a file may have, several times what the largest of today's models need."""


def read_file(path: Path) -> bytes | None:
    """Return the content of one of those files, or None where there is none.

    Links are followed wherever they lead, since the hub's cache is made of them and the content is what the model root binds; a
    link to nothing is an error, not a file that is absent. CONFIGURATION for what is no regular file or cannot be read,
    MALFORMED for one that is too large.
    """
    if not os.path.lexists(path):
        return None
    most = LARGEST[path.name]
    data = read_bounded(path, most, regular=True)
    if len(data) > most:
        raise CounterfoilError(
            Code.MALFORMED, f"{path} has more than the {most >> 20} MiB of any such file"
        )
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; CONFIGURATION says that it is not there, MALFORMED that it is none."""
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
    """As `read_json`; an empty object where there is no such file."""
    return read_json(path) if os.path.lexists(path) else {}


def shown(name: str) -> str:
    """Return a name from a file as a message shows it: short, and nothing that a terminal obeys."""
    return name if name.isascii() and name.isprintable() and len(name) <= 80 else f"{name!a:.80}"


class AmbiguousJsonError(ValueError):
    """A text that readers of JSON understand differently."""


def parse_json(data: bytes) -> Any:
    """Parse JSON in UTF-8; ValueError for anything else, RecursionError for what is too deep.

    AmbiguousJsonError, a ValueError, for an object with a name that stands twice (readers differ in which value they take), and
    for numbers that are none or that a float does not hold.
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
        raise AmbiguousJsonError(f"{twice!a:.80} stands twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise AmbiguousJsonError(f"{text[:20]} is more than a float holds")
    return value


def _no_number(text: str) -> NoReturn:
    raise AmbiguousJsonError(f"{text} is no number")
