"""The CDDL of `docs/protocol.md` as Python types: a record's wire form is derived from its dataclass.

A `Record` is a CBOR map. Its fields are annotated with the aliases below (`Bytes32`, `Name`, …), which
give both the Python type and what the wire permits. Construction checks every field, so a value that
exists is valid, whether it was made here or read from a stranger; anything else is MALFORMED.

Reading a map requires exactly the record's fields: none missing, none unknown. Only a statement's payload
may have more, by the rule for extending statements in protocol §2.2.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.codec.ids import NAME
from shared.codec.moment import MAX_MS
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.rules import (
    Choice,
    Count,
    Flag,
    Many,
    Octets,
    Rule,
    Single,
    Table,
    Text,
    Whole,
    refuse,
)


@dataclass(frozen=True, slots=True)
class Nested:
    """A record inside a record."""

    record: "type[Record]"

    @property
    def items(self) -> int:
        """The record's own."""
        return self.record.max_items()

    @property
    def nested(self) -> int:
        """The record's own."""
        return self.record.max_nested()

    def check(self, value: Any, where: str) -> None:
        """Refuse anything but that record; its own fields were checked when it was constructed."""
        if type(value) is not self.record:
            refuse(where, "is not a map of its kind")

    def load(self, value: Value, where: str) -> "Record":
        """Load the record."""
        if not isinstance(value, dict):
            refuse(where, "is not a map")
        try:
            return self.record.from_payload(value)
        except CounterfoilError as error:
            raise CounterfoilError(error.code, f"{where}: {error.detail}") from error

    def dump(self, value: "Record") -> Value:
        """Dump the record."""
        return value.to_payload()


@dataclass(frozen=True, slots=True)
class Embedded(Single):
    """A record as a byte string that holds its encoding, so that the bytes can be hashed as they are.
    Its content is decoded separately, with a budget of its own.
    """

    record: "type[Record]"
    most: int

    def check(self, value: Any, where: str) -> None:
        """Refuse anything but that record; its own fields were checked when it was constructed."""
        if type(value) is not self.record:
            refuse(where, "is not a map of its kind")

    def load(self, value: Value, where: str) -> "Record":
        """Decode the record."""
        if not isinstance(value, bytes):
            refuse(where, "is not a byte string")
        try:
            return self.record.from_cbor(value, max_bytes=self.most)
        except CounterfoilError as error:
            raise CounterfoilError(error.code, f"{where}: {error.detail}") from error

    def dump(self, value: "Record") -> Value:
        """Encode the record."""
        return value.to_cbor()


Uint = Annotated[int, Whole()]
U32 = Annotated[int, Whole(2**32 - 1)]
Ms = Annotated[int, Whole(MAX_MS)]
Ppm = Annotated[int, Whole(1_000_000)]
Bytes32 = Annotated[bytes, Octets(32, 32)]
Bytes64 = Annotated[bytes, Octets(64, 64)]
Name = Annotated[str, Text(63, 1, pattern=NAME)]
Line = Annotated[str, Text(256, 1, line=True)]
Boolean = Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    where: str
    """Its name in errors."""
    rule: Rule
    optional: bool


class Record:
    """A CBOR map with fixed fields. Subclasses are frozen dataclasses with slots."""

    __slots__ = ()
    CONSTANTS: ClassVar[Mapping[str, int]] = MappingProxyType({})
    """Members that always have the same value, such as the version."""

    def __post_init__(self) -> None:
        cls = type(self)
        for field in _fields(cls):
            value = getattr(self, field.name)
            if value is not None or not field.optional:
                field.rule.check(value, field.where)
        self.check()

    def check(self) -> None:
        """Check relations between fields; each field on its own is already valid."""

    def require(self, condition: bool, problem: str) -> None:
        """Raise MALFORMED unless the condition holds."""
        if not condition:
            refuse(label(type(self)), problem)

    def to_payload(self) -> dict[str, Value]:
        """Return the map; unset fields are absent."""
        payload: dict[str, Value] = dict(self.CONSTANTS)
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                payload[field.name] = field.rule.dump(value)
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[Any, Value]) -> Self:
        """Read a map strictly; MALFORMED if a field is missing, unknown or invalid."""
        for constant, expected in cls.CONSTANTS.items():
            value = payload.get(constant)
            if type(value) is not int or value != expected:
                refuse(f"{label(cls)}.{constant}", f"is not {expected}")
        values: dict[str, Any] = {}
        for field in _fields(cls):
            if field.name in payload:
                loaded = payload[field.name]
                if loaded is None:
                    refuse(field.where, "is null")
                values[field.name] = field.rule.load(loaded, field.where)
            elif not field.optional:
                refuse(field.where, "is missing")
        if len(values) + len(cls.CONSTANTS) != len(payload):
            unknown = sorted(
                repr(key)[:40] for key in payload if key not in values and key not in cls.CONSTANTS
            )
            refuse(label(cls), f"has unknown fields: {', '.join(unknown[:4])}")
        return cls(**values)

    def to_cbor(self) -> bytes:
        """Return the map's encoding."""
        return cbor.encode(self.to_payload())

    @classmethod
    def max_items(cls) -> int:
        """Return the most CBOR items that a permitted record can have, as `cbor.decode` counts them."""
        return _budget(cls)[0]

    @classmethod
    def max_nested(cls) -> int:
        """Return how many of them are arrays and maps."""
        return _budget(cls)[1]

    @classmethod
    def from_cbor(cls, data: bytes, *, max_bytes: int) -> Self:
        """Read an encoded map strictly; MALFORMED if the bytes are anything else.
        Decoding stops at the size of the largest permitted record.
        """
        items, nested = _budget(cls)
        value = cbor.decode(data, max_bytes=max_bytes, max_items=items, max_nested=nested)
        if not isinstance(value, dict):
            refuse(label(cls), "is not a map")
        return cls.from_payload(value)


CRIT: Final = "crit"
"""The field that names the critical ones (as `crit` in RFC 9052 §3.1)."""
MAX_UNKNOWN: Final = 16
_FIELD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Statement(Record):
    """The payload of a signed statement; `TYPE` is the last part of its content type.
    Fields defined after the first version are optional, and those that an older verifier must not ignore are
    critical (protocol §2.2).
    """

    __slots__ = ()
    TYPE: ClassVar[str]
    CONSTANTS: ClassVar[Mapping[str, int]] = MappingProxyType({"v": 1})
    CRITICAL: ClassVar[frozenset[str]] = frozenset()
    """Later fields that no verifier may ignore: a payload that has one lists it in `crit`."""
    NEEDED: ClassVar[frozenset[str]] = frozenset()
    """Later fields that every new statement must have; statements signed before they were defined lack them."""

    def to_payload(self) -> dict[str, Value]:
        """Return the map; unset fields are absent, and critical ones are named."""
        payload = super().to_payload()
        critical: list[Value] = [*sorted(self.CRITICAL & payload.keys())]
        return {**payload, CRIT: critical} if critical else payload

    @classmethod
    def from_payload(cls, payload: Mapping[Any, Value], *, new: bool = False) -> Self:
        """Read a payload by the rule for extending statements (protocol §2.2).
        Fields that this version does not know are ignored, unless they are critical (UNSUPPORTED). A `new` statement,
        one at intake, must not have such fields, and must have all that are now mandatory (MALFORMED).
        """
        known = {field.name for field in _fields(cls)} | cls.CONSTANTS.keys()
        unknown = payload.keys() - known - {CRIT}
        if new:
            for name in sorted(cls.NEEDED - payload.keys()):
                refuse(f"{label(cls)}.{name}", "is missing")
        elif unknown:
            _check_names(cls, unknown)
        _check_critical(cls, payload, known)
        ignored = {CRIT} if new else unknown | {CRIT}
        return super().from_payload({k: v for k, v in payload.items() if k not in ignored})

    @property
    @abstractmethod
    def subject(self) -> str:
        """What the statement is about, derived from its fields (protocol §2.1)."""


def _check_names(cls: type[Statement], unknown: AbstractSet[Any]) -> None:
    """Refuse unknown fields that no later version could have defined."""
    if not all(type(name) is str and _FIELD_NAME.fullmatch(name) for name in unknown):
        shown = sorted(repr(name)[:40] for name in unknown)
        refuse(label(cls), f"has unknown fields: {', '.join(shown[:4])}")
    if len(unknown) > MAX_UNKNOWN:
        refuse(label(cls), f"has {len(unknown)} unknown fields, more than {MAX_UNKNOWN}")


def _check_critical(
    cls: type[Statement], payload: Mapping[Any, Value], known: AbstractSet[str]
) -> None:
    """Refuse critical fields that this version does not know, and a list of them that does not match the payload."""
    present = sorted(cls.CRITICAL & payload.keys())
    if CRIT not in payload:
        if present:
            refuse(f"{label(cls)}.{CRIT}", f"does not name {present[0]}")
        return
    listed = payload[CRIT]
    names = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    in_order = all(one < other for one, other in pairwise(names))
    there = payload.keys() - {CRIT} >= set(names)
    if not names or names != listed or not in_order or not there:
        refuse(f"{label(cls)}.{CRIT}", "is not an ascending list of fields that are present")
    strange = [name for name in names if name not in known]
    if strange:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"the {label(cls)} has a critical field {strange[0][:63]!r} that is not known here",
            remedy="Use a newer version of Counterfoil.",
        )
    if names != present:
        refuse(f"{label(cls)}.{CRIT}", "names fields that are not critical")


def label(cls: type[Record]) -> str:
    """Return the record's name as errors and content types show it."""
    return str(getattr(cls, "TYPE", cls.__name__.lower()))


_FIELDS: dict[type[Record], tuple[_Field, ...]] = {}
_BUDGETS: dict[type[Record], tuple[int, int]] = {}


def _fields(cls: type[Record]) -> tuple[_Field, ...]:
    """Return the rules of a record's fields, computed on first use."""
    known = _FIELDS.get(cls)
    if known is None:
        hints = get_type_hints(cls, include_extras=True)
        known = _FIELDS[cls] = tuple(
            _Field(
                field.name,
                f"{label(cls)}.{field.name}",
                _rule(_required(hints[field.name])),
                field.default is None,
            )
            for field in fields(cls)  # type: ignore[arg-type]  # every subclass is a dataclass
        )
    return known


def _budget(cls: type[Record]) -> tuple[int, int]:
    """Return the most items and nested items of a record, computed on first use."""
    known = _BUDGETS.get(cls)
    if known is None:
        rules = [field.rule for field in _fields(cls)]
        items = 1 + 2 * len(cls.CONSTANTS) + sum(1 + rule.items for rule in rules)
        known = _BUDGETS[cls] = (items, 1 + sum(rule.nested for rule in rules))
    return known


def _required(hint: Any) -> Any:
    """Return T of `T | None`, and any other hint as it is."""
    if get_origin(hint) in {Union, UnionType}:
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        return inner
    return hint


def _rule(hint: Any) -> Rule:
    """Return the rule that a type annotation stands for."""
    base: Any = hint
    metadata: list[Any] = []
    if get_origin(hint) is Annotated:
        base, *metadata = get_args(hint)
    count = metadata[0] if metadata and isinstance(metadata[0], Count) else Count(0, 0)
    if get_origin(base) is tuple:
        return Many(_rule(get_args(base)[0]), count)
    if get_origin(base) is dict:
        key, value = get_args(base)
        return Table(_rule(key), _rule(value), count)
    if metadata:
        rule: Rule = metadata[0]
        return rule
    if isinstance(base, type) and issubclass(base, StrEnum):
        return Choice(base)
    assert issubclass(base, Record), f"no rule for {hint}"
    return Nested(base)
