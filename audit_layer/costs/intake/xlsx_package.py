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

from audit_layer.costs.intake.faults import quoted, refused
from audit_layer.costs.intake.limits import MAX_BYTES, MAX_PARTS

_CHUNK: Final = 2**20
_MAX_TAG: Final = 2**18
"""Bytes of an unfinished tag, which the parser would hold in memory and scan again with every chunk."""
_MAX_DEPTH: Final = 64
_ELEMENTS: Final = frozenset(
    {
        "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
        "http://purl.oclc.org/ooxml/spreadsheetml/main",
        "http://schemas.openxmlformats.org/package/2006/relationships",
    }
)
"""Namespaces of the elements that are heeded, transitional and strict."""
_REFERENCES: Final = frozenset(
    {
        "http://schemas.openxmlformats.org/officeDocument/2006/relationships id",
        "http://purl.oclc.org/ooxml/officeDocument/relationships id",
    }
)
"""The attribute that names a relationship."""
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
        parser.CharacterDataHandler = inner.text
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
            raise refused(f"is a damaged workbook: {quoted(name)} is not XML") from error
        yield

    def _chunks(self, name: str) -> Iterator[bytes]:
        if name not in self._names:
            raise refused(f"is not a workbook that is known here: it has no part {quoted(name)}")
        try:
            with self._archive.open(name) as part:
                while chunk := part.read(min(_CHUNK, self._left + 1)):
                    self._left -= len(chunk)
                    if self._left < 0:
                        raise refused(f"holds more than {MAX_BYTES // 2**20} MiB once decompressed")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise refused(f"is damaged: {quoted(name)} cannot be decompressed") from error
        except (NotImplementedError, RuntimeError) as error:  # another compression; a password
            raise refused(
                f"is encrypted or compressed in an unknown way at {quoted(name)}"
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
    """Passes elements on without their namespaces: those that a spreadsheet heeds, and not too deep ones."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._depth = 0
        self._passed_over = 0
        """How deep the elements are that no spreadsheet heeds."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise refused(f"is a workbook with elements more than {_MAX_DEPTH} deep")
        namespace, _, name = tag.rpartition(" ")
        if self._passed_over or namespace not in _ELEMENTS:
            self._passed_over += 1
            return
        own = {key: value for key, value in attributes.items() if " " not in key}
        for key in _REFERENCES.intersection(attributes):
            own["id"] = attributes[key]
        self._handler.start(name, own)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._passed_over:
            self._passed_over -= 1
        else:
            self._handler.end(tag.rpartition(" ")[2])

    def text(self, data: str) -> None:
        if not self._passed_over:
            self._handler.text(data)


def _doctype(*_: object) -> None:
    raise refused("is a workbook with a document type definition, which none needs")
