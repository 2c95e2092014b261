"""A tag book: which tags a tenant's blinded values stand for (protocol §4.5.1). It holds no key and no prompt."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn, Self

from shared.codec.ids import check_name, parse_hex32
from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.statements.tags import TagKey, canonical_tags

MAX_BYTES: Final = 16 * 2**20
"""Of a file: some hundred thousand combinations of tags."""
_MEMBERS: Final = frozenset({"tenant", "tags"})
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TagBook:
    """The tags of one tenant. Use it for orders of `tenant` only: another one can copy a blinded value into its own."""

    tenant: str
    entries: Mapping[bytes, Mapping[str, str]]
    """Tags, canonical, by blinded value (32 bytes)."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file; INVALID_ARGUMENT names what is wrong with it, NOT_FOUND says why it cannot be read."""
        data = read_bounded(path, MAX_BYTES, code=Code.NOT_FOUND)
        try:
            return cls.parse(data)
        except CounterfoilError as error:
            raise CounterfoilError(error.code, f"{path}: {error.detail}") from error

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a file's bytes strictly: UTF-8, exactly the format's members, each once; else INVALID_ARGUMENT."""
        if len(data) > MAX_BYTES:
            _refuse(f"a tag book has at most {MAX_BYTES} bytes")
        try:
            values = strict_json(data)
        except (ValueError, RecursionError) as error:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "a tag book is JSON in UTF-8, with every member once"
            ) from error
        if not isinstance(values, dict) or set(values) != _MEMBERS:
            _refuse("a tag book has the members tenant and tags, and no others")
        tenant, tags = values["tenant"], values["tags"]
        if not isinstance(tenant, str) or not isinstance(tags, dict):
            _refuse("in a tag book, tenant is text and tags is an object")
        return cls(
            check_name(tenant, "the tenant"),
            {
                parse_hex32(blinded, "a blinded value"): _canonical(blinded, found)
                for blinded, found in tags.items()
            },
        )

    @classmethod
    def of(cls, key: TagKey, tenant: str, candidates: Iterable[Mapping[str, str]]) -> Self:
        """Return the book of tags that an order may have, for whoever holds the tenant's tag key."""
        return cls(tenant, {key.blind(tenant, tags): canonical_tags(tags) for tags in candidates})

    def tags_of(self, blinded: bytes | None) -> Mapping[str, str]:
        """Return the tags of an order's `cost_centre`: none where it has none, or where they are not in the book."""
        return _NONE if blinded is None else MappingProxyType(self.entries.get(blinded, _NONE))

    def merged(self, other: Self) -> Self:
        """Return both books as one; CONFLICT if they are of two tenants or read one value differently."""
        if self.tenant != other.tenant:
            raise CounterfoilError(
                Code.CONFLICT,
                f"one tag book is of tenant {self.tenant}, another of {other.tenant}",
            )
        for blinded in self.entries.keys() & other.entries.keys():
            if self.entries[blinded] != other.entries[blinded]:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"two tag books differ about {blinded.hex()}, so one of them is false",
                )
        return type(self)(self.tenant, {**self.entries, **other.entries})

    def encode(self) -> bytes:
        """Return the file's bytes, sorted by blinded value; INVALID_ARGUMENT if no reader would take so many."""
        tags = {blinded.hex(): self.entries[blinded] for blinded in sorted(self.entries)}
        text = json.dumps({"tenant": self.tenant, "tags": tags}, indent=1, ensure_ascii=False)
        data = text.encode("utf-8") + b"\n"
        if len(data) > MAX_BYTES:
            _refuse(f"{len(self.entries)} entries make a tag book of more than {MAX_BYTES} bytes")
        return data


def _canonical(blinded: str, found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        _refuse(f"the tags of {blinded} are not an object")
    tags = canonical_tags(found)
    if tags != found:
        _refuse(f"a value in the tags of {blinded} is not in Unicode's form NFC")
    return tags


def _refuse(detail: str) -> NoReturn:
    raise CounterfoilError(Code.INVALID_ARGUMENT, detail)
