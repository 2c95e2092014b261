"""What one cell may hold: decimals, times, currencies, JSON, units and text. Pure; every judge takes the cell's text."""

import json
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.columns import Column, Kind
from audit_layer.costs.focus_check.currencies import ISO_4217
from audit_layer.costs.focus_check.report import Rule

MAX_DIGITS: Final = 76
"""Significant digits of a number: what the widest decimal type of Parquet holds."""
MAX_EXPONENT: Final = 400
EXACT: Final = Context(prec=3000)
"""Wide enough for the exact product, sum and quantization of any numbers that pass."""
_CACHED: Final = 200
"""Characters of a text whose reading is remembered, so that what a stranger wrote does not fill the memory."""

_NUMBER: Final = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:E-?\d{1,3})?", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII
)
_FORMULAS: Final = tuple("=+-@\t\r＝＋－＠")
"""First characters that make a cell a formula; Excel accepts the full-width forms as well."""
_PLACEHOLDERS: Final = frozenset(
    {"null", "none", "nan", "n/a", "#n/a", "not applicable", "undefined"}
)
_KEPT: Final = frozenset("\t\n\r")

Fault = tuple[Rule, str]
"""The broken rule, and what was expected instead."""
Judge = Callable[[str], Fault | None]

_SIZES: Final = tuple(
    prefix + unit for unit in "bB" for prefix in ("", *"KMGTPE", *(f"{p}i" for p in "KMGTPE"))
)
_COUNTED: Final = (
    "Year Month Day Hour Minute Second Millisecond Microsecond Count Unit Request Token Connection"
    " Certificate Domain Core"
)
_KNOWN_UNITS: Final = {
    unit.lower(): unit for name in _COUNTED.split() for unit in (name, f"{name}s")
}
_BASE: Final = r"[^\W\d_]\w*(?: [^\W\d_]\w*)*"
_UNIT: Final = re.compile(
    rf"(?:[1-9]\d* )?({_BASE}(?:-{_BASE})?)(?:/(?:[1-9]\d* )?({_BASE}(?:-{_BASE})?))?"
)
_TEXT_PROPERTIES: Final = frozenset(
    ("DiskType", "InstanceType", "InstanceSeries", "OperatingSystem", "Redundancy", "StorageClass")
)
_NUMERIC_PROPERTIES: Final = frozenset(
    (
        "CoreCount",
        "DiskMaxIops",
        "DiskSpace",
        "GpuCount",
        "MemorySize",
        "NetworkMaxIops",
        "NetworkMaxThroughput",
    )
)
_GRAIN_PROPERTIES: Final = frozenset(
    (
        "ContractId",
        "RegionId",
        "ResourceId",
        "ResourceType",
        "ServiceName",
        "SkuId",
        "SkuMeter",
        "SkuPriceId",
        "SubAccountId",
    )
)


def number(text: str | None) -> Decimal | None:
    """Return the number that a cell holds, exactly; None for a null or anything that is not a FOCUS number."""
    return None if text is None or len(text) > _CACHED else _number(text)


@lru_cache(maxsize=1 << 16)
def _number(text: str) -> Decimal | None:
    return None if number_fault(text) else Decimal(text)


def number_fault(text: str) -> Fault | None:
    """Return what keeps a cell from being a number (FOCUS NumericFormat)."""
    if len(text) > _CACHED or not _NUMBER.fullmatch(text):
        return rules.NUMBER, "digits with at most one point, such as -12.5 or 35.2E-7"
    mantissa, _, exponent = text.partition("E")
    digits = sum(map(str.isdigit, mantissa))
    if digits > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        return rules.NUMBER, f"at most {MAX_DIGITS} digits and an exponent within {MAX_EXPONENT}"
    return None


def moment(text: str | None) -> datetime | None:
    """Return the time that a cell holds; None for a null or anything that is not a FOCUS time."""
    return None if text is None or len(text) > _CACHED else _moment(text)


@lru_cache(maxsize=1 << 16)
def _moment(text: str) -> datetime | None:
    if not _DATE_TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # the 30th of February, hour 25
        return None


def moment_fault(text: str) -> Fault | None:
    """Return what keeps a cell from being a time (FOCUS DateTimeFormat). Time zone Z, whole seconds."""
    if moment(text) is None:
        return rules.DATE_TIME, "a time in UTC such as 2026-11-01T00:00:00Z"
    if "." in text:
        return rules.FRACTION, "whole seconds, such as 2026-11-01T00:00:00Z"
    return None


def national_fault(text: str) -> Fault | None:
    """Return what keeps a cell from being a national currency."""
    return None if text in ISO_4217 else (rules.CURRENCY, "an ISO 4217 code such as EUR")


def currency_fault(text: str) -> Fault | None:
    """Return what keeps a cell from being a currency, national or virtual: a national one has its code, in capitals."""
    if text.upper() in ISO_4217 and text not in ISO_4217:
        return rules.CURRENCY, f"the code in capitals: {text.upper()}"
    return string_fault(text)


def string_fault(text: str) -> Fault | None:
    """Return what is wrong with text: controls, a placeholder for null, nothing but spaces."""
    if fault := _control_fault(text):
        return fault
    if not text.strip():
        return rules.BLANK, "a value, or null"
    if text.lower() in _PLACEHOLDERS:
        return rules.PLACEHOLDER, "null (an empty cell)"
    return None


def host_fault(text: str) -> Fault | None:
    """Judge HostProviderName, where 1.4 itself has `Not Applicable` as a value."""
    return None if text == "Not Applicable" else string_fault(text)


def formula_fault(text: str) -> Fault | None:
    """Return a finding for text that a spreadsheet would run as a formula; a number is none."""
    if text.startswith(_FORMULAS) and number_fault(text):
        return rules.FORMULA, "text that does not begin with = + - @"
    return None


def custom_fault(text: str) -> Fault | None:
    """Judge a cell of a custom column, whose type nobody states."""
    return _control_fault(text) or formula_fault(text)


def _control_fault(text: str) -> Fault | None:
    if not text.isprintable() and any(
        unicodedata.category(c) in {"Cc", "Cs"} and c not in _KEPT for c in text
    ):
        return rules.CONTROL, "text without control characters"
    return None


def unit_fault(text: str) -> Fault | None:
    """Return what is wrong with a unit (FOCUS UnitFormat): `GB-Hours`, `1000 Tokens`, `Units/3 Months`."""
    if fault := string_fault(text):
        return fault
    if len(text) > _CACHED or (match := _UNIT.fullmatch(text)) is None:
        return rules.UNIT, "a unit such as Tokens, 1000 Tokens, GB-Hours or GB/Hour"
    for base in "-".join(filter(None, match.groups())).split("-"):
        right = base if base in _SIZES else _KNOWN_UNITS.get(base.lower(), base)
        if base != right or (base not in _SIZES and not base[0].isupper()):
            return rules.UNIT, f"{right[0].upper()}{right[1:]}"
    return None


class _BadError(ValueError):
    """JSON that parses and is not what FOCUS has."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BadError("each key once")
    return found


def _no_constant(name: str) -> None:
    raise _BadError(f"JSON has no {name}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_float=Decimal,
    parse_constant=_no_constant,
)


def _parsed(text: str) -> dict[str, Any] | str:
    """Return the object of a JSON text (RFC 8259, ECMA 404), or what is wrong with it."""
    return _parsed_short(text) if len(text) <= 10 * _CACHED else _parse(text)


@lru_cache(maxsize=1 << 12)
def _parsed_short(text: str) -> dict[str, Any] | str:
    return _parse(text)


def _parse(text: str) -> dict[str, Any] | str:
    try:
        value = _DECODER.decode(text)
    except _BadError as error:
        return str(error)
    except (ValueError, RecursionError):  # not JSON; an integer of thousands of digits; too deep
        return 'a JSON object such as {"team": "research"}'
    return value if isinstance(value, dict) else "an object in braces"


def key_value_fault(text: str) -> Fault | None:
    """Return what is wrong with a key-value cell: one object, keys once, no object or array inside."""
    found = _parsed(text)
    if isinstance(found, str):
        return rules.KEY_VALUE, found
    if any(isinstance(value, dict | list) for value in found.values()):
        return rules.KEY_VALUE, "numbers, texts, true, false and null as values"
    return None


def object_fault(text: str) -> Fault | None:
    """Return what is wrong with a JSON cell: one object, keys once at every level."""
    found = _parsed(text)
    return (rules.OBJECT, found) if isinstance(found, str) else None


def price_details_fault(text: str) -> Fault | None:
    """Judge SkuPriceDetails: FOCUS-defined properties have their spelling and type, all others begin with `x_`."""
    if fault := key_value_fault(text):
        return fault
    found = _parsed(text)
    assert isinstance(found, dict)
    for key, value in found.items():
        if key in _TEXT_PROPERTIES and not isinstance(value, str):
            return rules.PRICE_DETAILS, f"text for {key}"
        if key in _NUMERIC_PROPERTIES and type(value) not in {int, Decimal}:  # bool is an int
            return rules.PRICE_DETAILS, f"a number for {key}"
        if key not in _TEXT_PROPERTIES | _NUMERIC_PROPERTIES and not key.startswith("x_"):
            return rules.PRICE_DETAILS, "a property of FOCUS, or one that begins with x_"
    return None


def grain_fault(text: str) -> Fault | None:
    """Judge InvoiceDetailGrain: properties are columns that FOCUS names for it, or begin with `x_`."""
    if fault := key_value_fault(text):
        return fault
    if all(key in _GRAIN_PROPERTIES or key.startswith("x_") for key in _parsed(text)):
        return None
    return rules.GRAIN, "a property of FOCUS, or one that begins with x_"


_BY_KIND: Final[dict[Kind, Judge]] = {
    Kind.STRING: string_fault,
    Kind.UNIT: unit_fault,
    Kind.DECIMAL: number_fault,
    Kind.DATE_TIME: moment_fault,
    Kind.NATIONAL: national_fault,
    Kind.CURRENCY: currency_fault,
    Kind.KEY_VALUE: key_value_fault,
    Kind.OBJECT: object_fault,
}
_BY_NAME: Final[dict[str, Judge]] = {
    "HostProviderName": host_fault,
    "InvoiceDetailGrain": grain_fault,
    "SkuPriceDetails": price_details_fault,
}


def judge_of(column: Column, *, spreadsheet: bool) -> Judge:
    """Return what judges the cells of a column that hold a value; `spreadsheet`: of a file that one might open."""
    if column.allowed:
        return _one_of(column.allowed)
    judge = _BY_NAME.get(column.name, _BY_KIND[column.kind])
    return _both(judge, formula_fault) if spreadsheet and column.kind is Kind.STRING else judge


def _one_of(allowed: frozenset[str]) -> Judge:
    names = sorted(allowed)
    told = ", ".join(names) if len(names) <= 20 else "a value that the column's page lists"
    fault = (rules.ALLOWED, told)
    return lambda text: None if text in allowed else fault


def _both(first: Judge, second: Judge) -> Judge:
    return lambda text: first(text) or second(text)
