"""Deterministic CBOR: RFC 8949 §4.2.1 core encoding, and a decoder that accepts nothing else.

Every value has one encoding and every encoding one value, so bytes can be hashed, signed and
compared: map keys are sorted by the bytes of their encoding, integers and lengths are as short as
possible, lengths are definite. Values are the integers from -2^63 to 2^64-1, byte strings, UTF-8
text, booleans, null, arrays, maps with integer, text or byte-string keys, and tags without any
meaning of their own. Floating-point numbers, `undefined` and other simple values do not exist here.

The decoder is our own because libraries are built to be lenient: they keep one of two duplicate
keys, accept integers in longer form than needed, and give tags a meaning. Checking each byte once is
shorter, and easier to trust, than undoing that and re-encoding to compare. Tests check both directions
against `cbor2`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

from shared.runtime.errors import Code, CounterfoilError

MAX_BYTES: Final = 16 * 2**20
MAX_DEPTH: Final = 16
"""Nesting depth of arrays, maps and tags."""
MAX_ITEMS: Final = 4096
"""The most items that `decode` creates from a stranger's bytes, unless the caller's schema needs more."""
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_KEYS: Final = (int, str, bytes)
_SIMPLE_VALUES: Final[Mapping[int, bool | None]] = {20: False, 21: True, 22: None}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value. The codec attaches no meaning to `number` (0 to 2^64-1)."""

    number: int
    value: "Value"


# Keys are int, str or bytes. `Any`: Mapping is invariant in its key, and dict[str, …] must fit.
Value: TypeAlias = "int | bytes | str | bool | Tag | Sequence[Value] | Mapping[Any, Value] | None"


def encode(value: Value, *, max_depth: int = MAX_DEPTH) -> bytes:
    """Return the one encoding of `value`; a tuple is encoded like a list.
    Raises CounterfoilError(MALFORMED) for any value that the module's docstring does not list.
    """
    out = bytearray()
    _write(out, value, max_depth)
    return bytes(out)


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_items: int = MAX_ITEMS,
    max_nested: int | None = None,
    max_depth: int = MAX_DEPTH,
) -> Value:
    """Return the value of `data`; arrays become lists and maps dicts.

    Succeeds exactly for what `encode` returns and the limits permit; anything else is a
    CounterfoilError(MALFORMED) that says why and at which byte. Every value is an item: the
    outermost one, each member of an array, each key and each value of a map, the value in a tag. Items
    are counted where they are announced, before any is created, so no input costs more work and memory
    than `max_items` values, of which `max_nested` (by default all) may be arrays, maps and tags, which
    cost most.
    """
    if len(data) > max_bytes:
        _refuse(f"{len(data)} bytes exceed the limit of {max_bytes}")
    budget = _Budget(max_items, max_items if max_nested is None else max_nested)
    budget.spend(1, 0)
    found: tuple[Value, int] = _item(bytes(data), 0, max_depth, budget)
    value, end = found
    if end != len(data):
        _refuse(f"{len(data) - end} bytes follow the value at byte {end}")
    return value


class _Budget:
    """How many more items one call of `decode` may create, and how many of them may be nested."""

    __slots__ = ("_left", "_most", "_nested")

    def __init__(self, most: int, nested: int) -> None:
        self._most = self._left = most
        self._nested = nested

    def spend(self, items: int, at: int) -> None:
        """Deduct the items announced before byte `at`."""
        if items > self._left:
            _refuse(f"more than the permitted {self._most} items are announced by byte {at}")
        self._left -= items

    def nest(self, at: int) -> None:
        """Deduct the array, map or tag at byte `at`."""
        self._nested -= 1
        if self._nested < 0:
            _refuse(f"more arrays, maps and tags than permitted begin by byte {at}")


def _refuse(reason: str) -> NoReturn:
    raise CounterfoilError(Code.MALFORMED, f"CBOR: {reason}")


def _write_head(out: bytearray, major: int, argument: int) -> None:
    first = major << 5
    if argument < 24:
        out.append(first | argument)
    elif argument < 2**8:
        out += bytes((first | 24, argument))
    elif argument < 2**16:
        out.append(first | 25)
        out += argument.to_bytes(2, "big")
    elif argument < 2**32:
        out.append(first | 26)
        out += argument.to_bytes(4, "big")
    else:
        out.append(first | 27)
        out += argument.to_bytes(8, "big")


def _write(out: bytearray, value: Value, depth: int) -> None:
    if value is None or value is True or value is False:
        out.append(0xF6 if value is None else 0xF5 if value else 0xF4)
    elif isinstance(value, int):
        _write_int(out, value)
    elif isinstance(value, bytes):
        _write_head(out, _BYTES, len(value))
        out += value
    elif isinstance(value, str):
        _write_text(out, value)
    else:
        _write_nested(out, value, depth)


def _write_int(out: bytearray, value: int) -> None:
    if not MIN_INT <= value <= MAX_INT:
        _refuse("an integer is outside -2^63 … 2^64-1")
    if value >= 0:
        _write_head(out, _UNSIGNED, value)
    else:
        _write_head(out, _NEGATIVE, -1 - value)


def _write_text(out: bytearray, value: str) -> None:
    try:
        text = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CounterfoilError(
            Code.MALFORMED, f"CBOR: text contains a lone surrogate at character {error.start}"
        ) from error
    _write_head(out, _TEXT, len(text))
    out += text


def _write_nested(out: bytearray, value: object, depth: int) -> None:
    if depth <= 0:
        _refuse("values are nested too deeply")
    if isinstance(value, list | tuple):
        _write_head(out, _ARRAY, len(value))
        for item in value:
            _write(out, item, depth - 1)
    elif isinstance(value, Mapping):
        _write_head(out, _MAP, len(value))
        for key, item in sorted(((_key(k), v) for k, v in value.items()), key=lambda pair: pair[0]):
            out += key
            _write(out, item, depth - 1)
    elif isinstance(value, Tag):
        if not 0 <= value.number <= MAX_INT:
            _refuse("a tag's number is outside 0 … 2^64-1")
        _write_head(out, _TAG, value.number)
        _write(out, value.value, depth - 1)
    else:
        _refuse(f"a value of type {type(value).__name__} cannot be encoded")


def _key(key: object) -> bytes:
    if isinstance(key, bool) or not isinstance(key, _KEYS):
        _refuse(f"a map key of type {type(key).__name__} cannot be encoded")
    out = bytearray()
    _write(out, key, 0)
    return bytes(out)


def _item(data: bytes, at: int, depth: int, budget: _Budget) -> tuple[Any, int]:
    """Read the value at byte `at`, in which arrays, maps and tags may be nested at most `depth` deep.
    Return it and where the next one begins. `budget` already accounts for it. Every byte that the encoder would not have
    written is refused. Written flat, because everything that a stranger sends passes through here.
    """
    start = at
    if at >= len(data):
        _refuse(f"the input ends at byte {at}, where a value should begin")
    first = data[at]
    major, argument = first >> 5, first & 31
    at += 1
    if argument > 23:
        argument, at = _long_argument(data, at, major, argument)
    if major in _STRINGS:
        end = at + argument
        if end > len(data):
            _refuse(f"the input ends within the {argument} bytes that begin at byte {at}")
        piece = data[at:end]
        return (piece if major == _BYTES else _text(piece, at)), end
    if major == _UNSIGNED:
        return argument, at
    if major in _NESTED:
        if depth <= 0:
            _refuse(f"values are nested too deeply at byte {start}")
        budget.nest(start)
        return _NESTED[major](data, at, argument, depth - 1, budget)
    if major == _NEGATIVE:
        if argument >= 2**63:
            _refuse(f"the integer at byte {start} is below -2^63")
        return -1 - argument, at
    if argument not in _SIMPLE_VALUES:
        _refuse_head(start, major)
    return _SIMPLE_VALUES[argument], at


def _long_argument(data: bytes, at: int, major: int, short: int) -> tuple[int, int]:
    """Read the argument that follows a head, which must be as short as possible."""
    if major == _SIMPLE or short > 27:
        _refuse_head(at - 1, major)
    width = 1 << (short - 24)
    end = at + width
    if end > len(data):
        _refuse(f"the input ends within the {width} bytes that begin at byte {at}")
    argument = int.from_bytes(data[at:end], "big")
    if argument < (24 if width == 1 else 1 << (4 * width)):
        _refuse(f"the number at byte {at - 1} is longer than it needs to be")
    return argument, end


def _array(data: bytes, at: int, count: int, depth: int, budget: _Budget) -> tuple[list[Any], int]:
    _check_room(data, at, count)
    budget.spend(count, at)
    items = []
    for _ in range(count):
        value, at = _item(data, at, depth, budget)
        items.append(value)
    return items, at


def _map(
    data: bytes, at: int, count: int, depth: int, budget: _Budget
) -> tuple[dict[Any, Any], int]:
    _check_room(data, at, 2 * count)
    budget.spend(2 * count, at)
    found: dict[Any, Any] = {}
    previous = b""
    for _ in range(count):
        start = at
        key, at = _item(data, at, 0, budget)
        if key is True or key is False or not isinstance(key, _KEYS):
            _refuse(f"the map key at byte {start} is not an integer, text or byte string")
        encoded = data[start:at]
        if encoded <= previous:
            what = "twice in its map" if encoded == previous else "out of order"
            _refuse(f"the map key at byte {start} is {what}")
        previous = encoded
        found[key], at = _item(data, at, depth, budget)
    return found, at


def _tag(data: bytes, at: int, number: int, depth: int, budget: _Budget) -> tuple[Tag, int]:
    budget.spend(1, at)
    value, at = _item(data, at, depth, budget)
    return Tag(number, value), at


_STRINGS: Final = frozenset({_BYTES, _TEXT})
_NESTED: Final[Mapping[int, Callable[[bytes, int, int, int, _Budget], tuple[Any, int]]]] = {
    _ARRAY: _array,
    _MAP: _map,
    _TAG: _tag,
}


def _text(piece: bytes, at: int) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError as error:
        raise CounterfoilError(
            Code.MALFORMED, f"CBOR: the text at byte {at} is not valid UTF-8"
        ) from error


def _refuse_head(at: int, major: int) -> NoReturn:
    if major == _SIMPLE:
        _refuse(f"byte {at} begins a floating-point or simple value that is not permitted")
    _refuse(f"byte {at} has a reserved or indefinite length")


def _check_room(data: bytes, at: int, items: int) -> None:
    if items > len(data) - at:  # each takes at least a byte
        _refuse(f"the input is too short for the {items} items announced before byte {at}")
