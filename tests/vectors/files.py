"""Where the vectors lie, and how a spoiled object is written: as one splice of the valid one."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "protocol"
Json = dict[str, Any]


def load(name: str) -> Json:
    """Return the content of one vector file."""
    content: Json = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return content


def splice(good: bytes, bad: bytes) -> Json:
    """Return {at, remove, insert}: at byte `at` of the valid object, `remove` bytes give way to `insert`."""
    at = _common(good, bad)
    tail = _common(good[at:][::-1], bad[at:][::-1])
    return {"at": at, "remove": len(good) - at - tail, "insert": bad[at : len(bad) - tail].hex()}


def apply(good: bytes, change: Json) -> bytes:
    """Return the spoiled object."""
    at, remove = change["at"], change["remove"]
    return good[:at] + bytes.fromhex(change["insert"]) + good[at + remove :]


def _common(a: bytes, b: bytes) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
