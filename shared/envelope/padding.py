"""Padding to size classes: ISO/IEC 7816-4 (0x80, then zeros), so that lengths reveal little."""

from collections.abc import Callable

from shared.envelope.opaque import unreadable

STEP = 64 * 1024
"""Size classes double up to this size and are multiples of it above."""


def padded_size(length: int, smallest: int) -> int:
    """Return the size class of `length` bytes of data: the smallest with room for them and the 0x80."""
    size = smallest
    while size <= length and size < STEP:
        size *= 2
    if size > length:
        return size
    return (length // STEP + 1) * STEP


def is_size_class(size: int, smallest: int) -> bool:
    """Whether padding can produce this size."""
    return size >= smallest and padded_size(size - 1, smallest) == size


def pad(data: bytes, smallest: int) -> bytes:
    """Pad to the size class."""
    return pad_to(data, padded_size(len(data), smallest))


def unpad(padded: bytes, smallest: int) -> bytes:
    """Return the data; UNREADABLE unless this is exactly what `pad` returns for it."""
    return unpad_from(padded, lambda length: padded_size(length, smallest))


def pad_to(data: bytes, size: int) -> bytes:
    """Pad to `size` bytes, of which one at least is padding."""
    assert len(data) < size
    return data + b"\x80" + bytes(size - len(data) - 1)


def unpad_from(padded: bytes, size_of: Callable[[int], int]) -> bytes:
    """Return the data; UNREADABLE unless data of this length are padded to this size."""
    data = padded.rstrip(b"\x00")
    if not data.endswith(b"\x80") or len(padded) != size_of(len(data) - 1):
        raise unreadable()
    return data[:-1]
