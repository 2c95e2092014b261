"""The mapping file: how one operator's invoices are to be read, written once by a person. TOML or JSON, strict."""

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.intake.faults import quoted
from audit_layer.costs.problems import told
from shared.codec.moment import zone
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

MAX_MAPPING: Final = 2**20
"""Bytes."""
_DIRECTIVES: Final = frozenset("YmdHMSzbB")
_ADDRESS: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})", re.ASCII)

LINE_FIELDS: Final = (
    "line_id", "kind", "quantity", "scale", "unit_price", "per", "amount", "tax_rate", "tenant", "node", "model", "day",
    "description",
)  # fmt: skip
INVOICE_FIELDS: Final = (
    "invoice_id", "document", "corrects", "operator", "currency", "period_start", "period_end", "issued_at", "total",
    "net_total", "tax_total",
)  # fmt: skip
FIELDS: Final = (*LINE_FIELDS, *INVOICE_FIELDS)
STATED: Final = (*INVOICE_FIELDS, "tenant", "node", "model", "day", "scale", "per", "tax_rate")
"""Fields that may be said once for all lines."""
TOTALS: Final = ("total", "net-total", "tax-total")
"""Rows that state a sum to check against."""

TRANSLATED: Final = (
    "kind", "scale", "per", "tax_rate", "tenant", "node", "model", "operator", "currency", "document",
)  # fmt: skip
"""Fields whose texts may be translated."""
MEANINGS: Final = ("skip", *TOTALS, *map(str, ChargeKind))
"""What a row may be."""


DOCUMENTS: Final = ("invoice", "credit-note")
_CHOICES: Final = {"kind": MEANINGS, "document": DOCUMENTS}


def _among(names: Sequence[str]) -> AfterValidator:
    """Return a validator that refuses other names and says which one was probably meant."""

    def check(name: str) -> str:
        if name not in names:
            meant = difflib.get_close_matches(name, names, n=1) or names
            raise ValueError(
                f"unknown name {quoted(name)}; did you mean {meant[0]}?"
                if len(meant) == 1
                else f"unknown name {quoted(name)}; one of {', '.join(names)}"
            )
        return name

    return AfterValidator(check)


def _day_text(value: object) -> object:
    """Return a day that TOML has as such as text."""
    return value.isoformat() if type(value) is date else value


FieldName = Annotated[str, _among(FIELDS)]
StatedName = Annotated[str, _among(STATED)]
TranslatedName = Annotated[str, _among(TRANSLATED)]
RowMeaning = Annotated[str, _among(MEANINGS)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class FileForm(_Strict):
    """How the file is written."""

    encoding: Literal["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"] = "utf-8"
    delimiter: Annotated[str, Field(pattern=r"^[^\"'\r\n\w]$")] = ","
    quote: Annotated[str, Field(pattern=r"^[^\r\n\w]$")] = '"'
    sheet: Text | None = None
    """Of a workbook; may be left out where only one sheet is visible."""
    empty: tuple[Text, ...] = ()
    """Texts that mean that a cell is empty, such as `-` or `n/a`."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same character")
        return self


class RowRule(_Strict):
    """What a row means whose cell in `column` is, begins with or contains a text; the first rule that applies counts."""

    column: Text | Annotated[int, Field(ge=1, le=1000, strict=True)]
    equals: str | None = None
    begins: Text | None = None
    contains: Text | None = None
    meaning: RowMeaning = Field(alias="as")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(text is not None for text in (self.equals, self.begins, self.contains)) != 1:
            raise ValueError("needs one of equals, begins and contains")
        return self

    def applies(self, text: str) -> bool:
        """Whether the rule applies to a cell's text, in which white space is single spaces."""
        if self.equals is not None:
            return text == self.equals
        if self.begins is not None:
            return text.startswith(self.begins)
        return self.contains is not None and self.contains in text


class RowForm(_Strict):
    """Which rows are lines. Blank rows never are."""

    header: Annotated[int, Field(ge=0, le=1000, strict=True)] = 1
    """The row that names the columns; 0 if none does."""
    last: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The last row that is read."""
    skip: frozenset[Annotated[int, Field(ge=1, strict=True)]] = frozenset()
    rules: tuple[RowRule, ...] = ()


class NumberForm(_Strict):
    """How numbers are written as text."""

    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", "'", "’", " "] | None = None
    """A space stands for no-break spaces as well."""
    negative: Literal["minus", "trailing-minus", "parentheses"] = "minus"
    units: tuple[Text, ...] = ()
    """Texts before or after a number that are not part of it, such as `€` or `EUR`."""
    deducted: frozenset[Literal["discount", "credit"]] = frozenset()
    """Kinds whose amounts the file states without a sign although they are deducted."""
    credit_notes: Literal["signed", "unsigned"] = "signed"
    """Whether a credit note states what it returns as negative amounts, or without a sign."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError("decimal and thousands are the same character")
        return self


class DateForm(_Strict):
    """How days are written as text."""

    formats: Annotated[tuple[Text, ...], Field(min_length=1, max_length=10)] = ("%Y-%m-%d",)
    """`%Y %m %d %H %M %S %z %b %B` as in strptime (month names in English), or `rfc3339`."""
    time_zone: str = "UTC"
    """Whose days they are, and those of the period."""
    period_end: Literal["last-day", "day-after"] | None = None
    """Whether `period_end` is the last day of the period or the day after it. There is no default."""

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for text in formats:
            if text == "rfc3339":
                continue
            used = re.findall(r"%(.?)", text)
            if unknown := set(used) - _DIRECTIVES:
                raise ValueError(f"{text!r} uses %{min(unknown)}, which is not supported")
            if not ({"Y", "d"} <= set(used) and {"m", "b", "B"} & set(used)):
                raise ValueError(f"{text!r} does not say year, month and day")
            if len(used) != len(set(used)):
                raise ValueError(f"{text!r} has a part twice")
        return formats

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            zone(name)
        except CounterfoilError as error:
            raise ValueError(error.detail) from error
        return name


class TaxForm(_Strict):
    """Whether what the rows state includes tax; the rate then is the field `tax_rate`, in percent."""

    amounts: Literal["net", "gross"] = "net"
    unit_prices: Literal["net", "gross"] = "net"


class InvoiceMapping(_Strict):
    """A mapping file."""

    format: Literal["csv", "xlsx", "focus"]
    file: FileForm = FileForm()
    rows: RowForm = RowForm()
    numbers: NumberForm = NumberForm()
    dates: DateForm = DateForm()
    tax: TaxForm = TaxForm()
    columns: dict[FieldName, Text | Annotated[int, Field(ge=1, le=1000, strict=True)]] = Field(
        default_factory=dict
    )
    """Field to column, by the header's text or by number from 1."""
    cells: dict[StatedName, Annotated[str, Field(pattern=_ADDRESS.pattern + "$")]] = Field(
        default_factory=dict
    )
    """Field to a single cell, such as `B2`."""
    constants: dict[
        StatedName, Annotated[Text | Annotated[int, Field(strict=True)], BeforeValidator(_day_text)]
    ] = Field(default_factory=dict)
    """Field to value: days as 2026-11-01, numbers as 1234.50, whatever the file's own form is."""
    values: dict[TranslatedName, dict[str, Text | Annotated[int, Field(strict=True)]]] = Field(
        default_factory=dict
    )
    """Field to what its texts mean, for example `"Input tokens" = "input"`."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a mapping file, JSON if it begins with a brace, TOML otherwise. CONFIGURATION names what is wrong."""
        if len(data) > MAX_MAPPING:
            raise _unusable(f"is larger than {MAX_MAPPING} bytes")
        try:
            return cls.model_validate(_object(data))
        except ValidationError as error:
            raise _unusable(f"is not valid: {told(error, _known(), 20)}") from error

    @field_validator("values")
    @classmethod
    def _translated(
        cls, values: dict[str, dict[str, str | int]]
    ) -> dict[str, dict[str, str | int]]:
        for field, table in values.items():
            check = _CHOICES.get(field)
            for text, value in table.items():
                if check is not None and value not in check:
                    raise ValueError(
                        f"{field}: {quoted(text)} cannot mean {quoted(str(value))}; one of {', '.join(check)}"
                    )
                if (field in ("scale", "per")) != isinstance(value, int):
                    raise ValueError(f"{field}: what {quoted(text)} means has the wrong type")
        return values

    @cached_property
    def addresses(self) -> dict[tuple[int, str], tuple[StatedName, ...]]:
        """The single cells: (row, letters) to the fields that are read there."""
        found: dict[tuple[int, str], tuple[StatedName, ...]] = {}
        for name, address in self.cells.items():
            if match := _ADDRESS.fullmatch(address):
                place = (int(match[2]), match[1])
                found[place] = (*found.get(place, ()), name)
        return found

    @model_validator(mode="after")
    def _effective(self) -> Self:
        """Refuse settings that this format has no use for: whoever wrote them expects something else."""
        for table, names in _UNUSED[self.format].items():
            if table not in self.model_fields_set:
                continue
            given = names and getattr(self, table).model_fields_set & names
            if given or not names:
                where = f"{table}.{min(given)}" if given else table
                raise ValueError(f"{where} says nothing about {self.format} files")
        return self

    @model_validator(mode="after")
    def _once(self) -> Self:
        """Check that every field has one source, and that what a line cannot do without has one."""
        places: dict[str, Collection[str]] = {
            "columns": self.columns,
            "cells": self.cells,
            "constants": self.constants,
        }
        for name in FIELDS:
            given = [place for place, fields in places.items() if name in fields]
            if len(given) > 1:
                raise ValueError(f"{name} is in {' and in '.join(given)}")
        if self.format == "focus":
            if odd := set(self.columns) - {"kind", "tenant", "node", "model", "line_id"}:
                raise ValueError(f"columns.{min(odd)}: FOCUS itself says which column that is")
            return self
        if "amount" not in self.columns:
            raise ValueError("columns.amount is missing")
        if "kind" not in self.columns and not self.rows.rules:
            raise ValueError("columns.kind is missing, and no rule says what rows are")
        if self.dates.period_end is None:
            raise ValueError("dates.period_end is missing: last-day or day-after?")
        if not self.rows.header and any(isinstance(at, str) for at in self.columns.values()):
            raise ValueError("columns have names, but rows.header is 0: no row names them")
        return self


_DIALECT: Final = frozenset({"encoding", "delimiter", "quote"})
_UNUSED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "csv": {"file": frozenset({"sheet"})},
    "xlsx": {"file": _DIALECT},
    "focus": {
        "file": _DIALECT | {"sheet"},
        "dates": frozenset({"formats", "period_end"}),
        **dict.fromkeys(("rows", "numbers", "tax", "cells"), frozenset()),
    },
}
"""By format: tables of which some settings, or where none are named all, have no use."""


def _object(data: bytes) -> Any:
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_once_each)
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise _unusable("is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # JSON's and TOML's own errors are ValueErrors
        raise _unusable(f"is neither TOML nor JSON: {printable(str(error), 200)}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return dict(pairs)


def _known() -> dict[tuple[str, ...], list[str]]:
    """Return the names that may stand in each table, for `did you mean`."""
    tables: dict[str, type[_Strict]] = {
        "file": FileForm,
        "numbers": NumberForm,
        "dates": DateForm,
        "tax": TaxForm,
    }
    return {
        (): list(InvoiceMapping.model_fields),
        ("rows",): list(RowForm.model_fields),
        ("rows", "rules"): ["column", "equals", "begins", "contains", "as"],
        **{(name,): list(model.model_fields) for name, model in tables.items()},
    }


def _unusable(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFIGURATION,
        f"the mapping {problem}",
        remedy="docs/invoices.md describes every setting.",
    )
