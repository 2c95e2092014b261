"""A file's bytes within bounds, and what they are by their first ones. Nothing is read beyond the limit."""

import gzip
import io
import os
import zlib
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit_layer.costs.intake.faults import refused
from audit_layer.costs.intake.limits import MAX_BYTES
from shared.runtime.reading import open_regular, read_up_to

_MIB: Final = MAX_BYTES // 2**20
_TOO_LARGE: Final = f"is larger than {_MIB} MiB; have the operator split it by period or tenant"

_WRAPPINGS: Final = 2
"""An operator's, and that of whoever sends the file on."""


class Container(StrEnum):
    """What a file is, by its first bytes alone."""

    ZIP = "a ZIP archive, as .xlsx workbooks are"
    PARQUET = "a Parquet file"
    OLD_OFFICE = "an old .xls or an encrypted workbook; save it as .xlsx without a password"
    PDF = "a PDF; ask the operator for the table behind it"
    OBJECT = "a JSON object"
    TEXT = "text"
    BINARY = "neither text nor a format that is known here"


_MAGIC: Final = (
    (b"PK\x03\x04", Container.ZIP),
    (b"PK\x05\x06", Container.ZIP),
    (b"PAR1", Container.PARQUET),
    (bytes.fromhex("d0cf11e0a1b11ae1"), Container.OLD_OFFICE),
    (b"%PDF", Container.PDF),
)
_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-8 and UTF-16."""


def content_of(source: bytes | Path) -> bytes:
    """Return a file's bytes, out of its gzip wrapping if it has one; MALFORMED beyond the limit or unreadable."""
    if isinstance(source, Path):
        source = _read(source)
    if len(source) > MAX_BYTES:
        raise refused(_TOO_LARGE)
    content = source
    for _ in range(_WRAPPINGS):
        if content.startswith(b"\x1f\x8b"):
            content = _unzipped(content)
    if not content or content.isspace():
        raise refused("is empty")
    return content


def container_of(content: bytes) -> Container:
    """Return what a file is by its first bytes; for text nothing is known about its form."""
    for magic, container in _MAGIC:
        if content.startswith(magic):
            return container
    head = content[:4096]
    if head.startswith(_MARKS[1:]):
        return Container.TEXT
    if b"\0" in head:
        return Container.BINARY
    first = head.removeprefix(_MARKS[0]).lstrip()[:1]
    return Container.OBJECT if first == b"{" else Container.TEXT


def _read(path: Path) -> bytes:
    """Return a file's bytes, one more than the limit at most; a file that says that it is larger is not read at all."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise refused(_TOO_LARGE)
            return read_up_to(file, MAX_BYTES + 1)
    except OSError as error:
        raise refused(f"cannot be read: {error.strerror}") from error


def _unzipped(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise refused("is damaged: its gzip data cannot be decompressed") from error
    if len(unpacked) > MAX_BYTES:
        raise refused(f"holds more than {_MIB} MiB once decompressed")
    return unpacked
