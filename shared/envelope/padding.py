"""Padding to size classes: ISO/IEC 7816-4 (0x80, then zeros), so that lengths reveal little."""

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
    return data + b"\x80" + bytes(padded_size(len(data), smallest) - len(data) - 1)


def unpad(padded: bytes, smallest: int) -> bytes:
    """Return the data; UNREADABLE unless this is exactly what `pad` returns for it."""
    data = padded.rstrip(b"\x00")
    if not data.endswith(b"\x80") or len(padded) != padded_size(len(data) - 1, smallest):
        raise unreadable()
    return data[:-1]
