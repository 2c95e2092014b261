"""A workbook's archive (ECMA-376, Open Packaging Conventions): parts within bounds, XML without document types.

Everything in it is a stranger's: an archive may claim any sizes, and XML may define entities that grow. So decompressed
bytes are counted as they come, and a DOCTYPE, which no workbook needs, ends the reading before any entity exists.
"""

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Final
from xml.parsers import expat

from audit_layer.costs.intake.faults import refused
from audit_layer.costs.intake.limits import MAX_BYTES, MAX_PARTS

_CHUNK: Final = 2**20
_MAX_TAG: Final = 2**18
"""Bytes of an unfinished tag, which the parser would hold in memory and scan again with every chunk."""
_MAX_DEPTH: Final = 64
_CENTRAL: Final = b"PK\x01\x02"

Attributes = Mapping[str, str]


class Package:
    """The parts of one workbook."""

    def __init__(self, content: bytes) -> None:
        if content.count(_CENTRAL) > MAX_PARTS:
            raise refused(f"is a workbook of more than {MAX_PARTS} parts")
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(content))
            names = self._archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise refused("is a damaged ZIP archive") from error
        self._names = set(names)
        if len({name.casefold() for name in names}) < len(names):
            raise refused("is a workbook with two parts of one name, of which programs read either")
        self._left = MAX_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def parts(self) -> set[str]:
        """Return the names of all parts."""
        return self._names

    def read(self, name: str, handler: "Handler") -> None:
        """Parse a part with a handler; MALFORMED for what is missing, damaged, too large or not XML without DOCTYPE."""
        for _ in self.steps(name, handler):
            pass

    def steps(self, name: str, handler: "Handler") -> Iterator[None]:
        """Parse a part, pausing after every few MiB."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        inner = _Inner(handler)
        parser.StartElementHandler, parser.EndElementHandler = inner.start, inner.end
        parser.CharacterDataHandler = handler.text
        parser.StartDoctypeDeclHandler = _doctype
        fed = 0
        try:
            for chunk in self._chunks(name):
                parser.Parse(chunk, False)
                fed += len(chunk)
                if fed - parser.CurrentByteIndex > _MAX_TAG:
                    raise refused(f"is a workbook with a tag of more than {_MAX_TAG} bytes")
                yield
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise refused(f"is a damaged workbook: {name} is not XML") from error
        yield

    def _chunks(self, name: str) -> Iterator[bytes]:
        if name not in self._names:
            raise refused(f"is not a workbook that is known here: it has no part {name[:80]!a}")
        try:
            with self._archive.open(name) as part:
                while chunk := part.read(min(_CHUNK, self._left + 1)):
                    self._left -= len(chunk)
                    if self._left < 0:
                        raise refused(f"holds more than {MAX_BYTES // 2**20} MiB once decompressed")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise refused(f"is damaged: {name[:80]!a} cannot be decompressed") from error
        except (NotImplementedError, RuntimeError) as error:  # another compression; a password
            raise refused(
                f"is encrypted or compressed in an unknown way at {name[:80]!a}"
            ) from error


class Handler:
    """What is done with the elements of a part; names come without their namespace."""

    def start(self, tag: str, attributes: Attributes) -> None:
        """Take the beginning of an element."""

    def end(self, tag: str) -> None:
        """Take the end of an element."""

    def text(self, data: str) -> None:
        """Take some of an element's text."""


def target(base: str, path: str) -> str:
    """Return the part that a relationship of the part `base` names."""
    if path.startswith("/"):
        return path[1:]
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), path))


class _Inner:
    """Passes elements on without their namespaces, and not too deep ones."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise refused(f"is a workbook with elements more than {_MAX_DEPTH} deep")
        self._handler.start(
            tag.rpartition(" ")[2],
            {name.rpartition(" ")[2]: value for name, value in attributes.items()},
        )

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._handler.end(tag.rpartition(" ")[2])


def _doctype(*_: object) -> None:
    raise refused("is a workbook with a document type definition, which none needs")
