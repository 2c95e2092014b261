"""The mapping file: how one operator's invoices are to be read, written once by a person. TOML or JSON, strict."""

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from audit_layer.costs.intake.faults import quoted
from audit_layer.costs.intake.forms import (
    DOCUMENTS,
    FIELDS,
    MEANINGS,
    DateForm,
    FieldName,
    FileForm,
    NumberForm,
    RowForm,
    StatedName,
    Strict,
    TaxForm,
    Text,
    TranslatedName,
)
from audit_layer.costs.problems import told
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

MAX_MAPPING: Final = 2**20
"""Bytes."""
_ADDRESS: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})", re.ASCII)

_CHOICES: Final = {"kind": MEANINGS, "document": DOCUMENTS}


def _day_text(value: object) -> object:
    """Return a day that TOML has as such as text."""
    return value.isoformat() if type(value) is date else value


class InvoiceMapping(Strict):
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
    tables: dict[str, type[Strict]] = {
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
