"""Mutations of CBOR values and bytes, driven by whoever chooses: a seeded generator, or a fuzzer that watches coverage."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
INTEGERS = (
    0,
    1,
    -1,
    2,
    31,
    32,
    33,
    255,
    256,
    2**16,
    2**20,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
)
TEXTS = ("", "a", "\x00", "\x1b[2J", "�", "\U0010ffff", "é" * 40, "stop", "x" * 300)
BYTES = (b"", b"\x00", b"\xff" * 32, bytes(32), b"\xa0", b"\x80", b"x" * 300)
VALUES: tuple[Any, ...] = (*INTEGERS, *TEXTS, *BYTES, True, False, None, [], {}, [[]], {"v": 1})


class Chooser(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int:
        """Return an integer with low <= value <= high."""


def pick(chooser: Chooser, items: Sequence[T]) -> T:
    """Return one of the items."""
    return items[chooser.integer(0, len(items) - 1)]


def mutated(value: Any, chooser: Chooser) -> Any:
    """Return a value with one mutation somewhere in it; it need not be one that can be encoded."""
    inside = _inside(value)
    if inside and chooser.integer(0, 15 if isinstance(value, dict) else 2):
        key = pick(chooser, inside)
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[key] = mutated(value[key], chooser)
        return copy
    if not chooser.integer(0, 9):  # of another type, which stops most readers at once
        return pick(chooser, VALUES)
    return pick(chooser, _mutations(value))(value, chooser)


def mutated_bytes(data: bytes, chooser: Chooser) -> bytes:
    """Return bytes with one mutation: flipped, cut, doubled, or with something else in a place."""
    at = chooser.integer(0, max(0, len(data) - 1))
    end = min(len(data), at + chooser.integer(1, 8))
    return pick(
        chooser,
        [
            data[:at] + bytes([chooser.integer(0, 255)]) + data[at + 1 :],
            data[:at],
            data[:at] + data[end:],
            data[:end] + data[at:],
            data + data[:end],
            data[:at] + pick(chooser, BYTES) + data[at:],
        ],
    )


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list | tuple) else []


Mutation = Callable[[Any, Chooser], Any]


def _mutations(value: Any) -> Sequence[Mutation]:
    """Return mutations that keep the type."""
    if isinstance(value, bool):
        return (lambda v, _: not v,)
    if isinstance(value, int):
        return (_near, _extreme)
    if isinstance(value, str):
        return (_spelled, _text)
    if isinstance(value, bytes):
        return (_flipped, _flipped, mutated_bytes)
    if isinstance(value, dict):
        return (_without, _with_more, _renamed)
    if isinstance(value, list | tuple):
        return (_dropped, _doubled, _reversed, _inserted)
    return (lambda _, chooser: pick(chooser, VALUES),)


def _spelled(value: str, chooser: Chooser) -> str:
    return mutated_bytes(value.encode(), chooser).decode("utf-8", "replace")


def _text(_value: str, chooser: Chooser) -> str:
    return pick(chooser, TEXTS)


def _flipped(value: bytes, chooser: Chooser) -> bytes:
    """Keep the length: hashes and keys have one."""
    if not value:
        return b"\x00"
    at = chooser.integer(0, len(value) - 1)
    return value[:at] + bytes([value[at] ^ (1 << chooser.integer(0, 7))]) + value[at + 1 :]


def _near(value: int, chooser: Chooser) -> int:
    return value + chooser.integer(-3, 3)


def _extreme(_value: int, chooser: Chooser) -> int:
    return pick(chooser, INTEGERS)


def _without(value: dict[Any, Any], chooser: Chooser) -> dict[Any, Any]:
    if not value:
        return {"v": 1}
    gone = pick(chooser, list(value))
    return {key: item for key, item in value.items() if key != gone}


def _with_more(value: dict[Any, Any], chooser: Chooser) -> dict[Any, Any]:
    return {**value, pick(chooser, ("more", "", 1, b"k", "crit", "v")): pick(chooser, VALUES)}


def _renamed(value: dict[Any, Any], chooser: Chooser) -> dict[Any, Any]:
    if not value:
        return {"v": 2}
    old = pick(chooser, list(value))
    return {("renamed" if key == old else key): item for key, item in value.items()}


def _dropped(value: Sequence[Any], chooser: Chooser) -> list[Any]:
    at = chooser.integer(0, max(0, len(value) - 1))
    return [*value[:at], *value[at + 1 :]]


def _doubled(value: Sequence[Any], chooser: Chooser) -> list[Any]:
    at = chooser.integer(0, max(0, len(value) - 1))
    return [*value[: at + 1], *value[at:]]


def _reversed(value: Sequence[Any], _chooser: Chooser) -> list[Any]:
    return list(reversed(value))


def _inserted(value: Sequence[Any], chooser: Chooser) -> list[Any]:
    at = chooser.integer(0, len(value))
    like = [item for item in value if not isinstance(item, dict)] or list(VALUES)
    return [*value[:at], pick(chooser, like), *value[at:]]
