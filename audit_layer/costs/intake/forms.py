"""The tables of a mapping file, and the names that may stand in it: files, rows, numbers, dates, tax. Strict."""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.intake.faults import quoted
from shared.codec.moment import zone
from shared.runtime.errors import CounterfoilError

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


FieldName = Annotated[str, _among(FIELDS)]
StatedName = Annotated[str, _among(STATED)]
TranslatedName = Annotated[str, _among(TRANSLATED)]
RowMeaning = Annotated[str, _among(MEANINGS)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


_DIRECTIVES: Final = frozenset("YmdHMSzbB")


class Strict(BaseModel):
    """Base of every table: unknown settings are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class FileForm(Strict):
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


class RowRule(Strict):
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


class RowForm(Strict):
    """Which rows are lines. Blank rows never are."""

    header: Annotated[int, Field(ge=0, le=1000, strict=True)] = 1
    """The row that names the columns; 0 if none does."""
    last: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The last row that is read."""
    skip: frozenset[Annotated[int, Field(ge=1, strict=True)]] = frozenset()
    rules: tuple[RowRule, ...] = ()


class NumberForm(Strict):
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


class DateForm(Strict):
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


class TaxForm(Strict):
    """Whether what the rows state includes tax; the rate then is the field `tax_rate`, in percent."""

    amounts: Literal["net", "gross"] = "net"
    unit_prices: Literal["net", "gross"] = "net"
