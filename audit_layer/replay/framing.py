"""Messages on a pipe: u32 length ‖ bytes."""

import struct
from typing import IO

from audit_layer.replay.case import MAX_CASE_BYTES

HEADER = struct.Struct(">I")


def read_message(stream: IO[bytes], limit: int = MAX_CASE_BYTES) -> bytes | None:
    """Read one message; None when the stream has ended or the message is longer than `limit` bytes."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    if size > limit:
        return None
    data = stream.read(size)
    return data if len(data) == size else None


def write_message(stream: IO[bytes], data: bytes) -> None:
    """Write one message."""
    stream.write(HEADER.pack(len(data)) + data)
    stream.flush()
