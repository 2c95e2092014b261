"""The columns of charges that an export of millions of rows is computed from: checked, in Arrow's types.

A batch is a pyarrow RecordBatch, or a mapping, whose columns have the names of `Charge`'s fields. In a mapping, a list or
an Arrow array is a column; anything else is a constant of the batch. `tags` is the text of a flat JSON object, `kind` and
`audit` are text; `amount` may be left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_layer.costs.charge import AuditState, Charge, ChargeKind
from audit_layer.costs.exports.focus_rows import OWN
from audit_layer.costs.exports.table import PRECISION, SCALES, Kind
from shared.codec.money import amount_of
from shared.runtime.errors import Code, CounterfoilError

Batch = Mapping[str, Any] | Any
"""A mapping of columns and constants, or a RecordBatch."""
_FIELDS: Final = {field.name: field for field in fields(Charge)}
_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(("quantity", "per", "started", "ended", "period_start", "period_end"), pa.int64()),
        **dict.fromkeys(("log_index", "verified_quantity"), pa.int64()),
        **dict.fromkeys(("model_root", "receipt", "rate_card", "cost_centre", "because"), pa.binary()),
        **dict.fromkeys(("unit_price", "fx_rate"), pa.decimal128(PRECISION, SCALES[Kind.PRICE])),
        "amount": pa.decimal128(PRECISION, SCALES[Kind.COST]),
        "correction": pa.bool_(),
    }
)  # fmt: skip
"""Of the fields; every other one is text."""
_WIDEST: Final = 2**40
"""Codes of combinations are renumbered before they grow beyond this."""


class ChargeColumns:
    """The columns of some charges, checked."""

    def __init__(self, batch: Batch) -> None:
        """INVALID_ARGUMENT for an unknown, missing or unequally long column, or a value of another type."""
        if isinstance(batch, pa.RecordBatch):
            batch = dict(zip(batch.schema.names, batch.columns, strict=True))
        unknown = batch.keys() - _FIELDS.keys()
        missing = {name for name, field in _FIELDS.items() if _required(field)} - batch.keys()
        if unknown or missing:
            raise refused(f"unknown columns {sorted(unknown)}, missing columns {sorted(missing)}")
        self.columns: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        for name, value in batch.items():
            if isinstance(value, list | tuple | pa.Array | pa.ChunkedArray):
                self.columns[name] = _array(name, value)
            else:
                self.constants[name] = _converted(name, [value])[0].as_py()
        for name, field in _FIELDS.items():
            column = self.columns.get(name)
            empty = self.constants.get(name) is None if column is None else column.null_count > 0
            if _required(field) and empty:
                raise refused(f"{name} is missing somewhere")
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1:
            raise refused(f"columns of {sorted(lengths)} rows")
        self.rows: int = lengths.pop() if lengths else 1

    def column(self, name: str) -> Any:
        """Return a field of every row."""
        if name in self.columns:
            return self.columns[name]
        value = self.constants.get(name, _FIELDS[name].default)
        return pa.repeat(pa.scalar(value, type=_TYPES.get(name, pa.string())), self.rows)

    def charge(self, index: int) -> Charge:
        """Return one row; INVALID_ARGUMENT when it is no charge."""
        values = dict(self.constants)
        values |= {name: column[index].as_py() for name, column in self.columns.items()}
        try:
            values["kind"] = ChargeKind(values["kind"])
            values["audit"] = AuditState(values.get("audit") or AuditState.UNAUDITED)
            values["tags"] = _tags(values.get("tags"))
            values["correction"] = bool(values.get("correction"))
        except ValueError as error:
            raise refused(str(error)) from error
        if values.get("amount") is None:
            values["amount"] = amount_of(values["quantity"], values["unit_price"], values["per"])
        return Charge(**values)

    def combinations(self) -> tuple[Sequence[int], Any]:
        """Return the first row of each combination of shared fields, in order, and every row's combination."""
        codes, width = np.zeros(self.rows, np.int64), 1
        for name, column in self.columns.items():
            if name in OWN:
                continue
            encoded = pc.dictionary_encode(column, null_encoding="encode")
            codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
            width *= len(encoded.dictionary)
            if width > _WIDEST:
                codes = np.unique(codes, return_inverse=True)[1]
                width = self.rows
        _, first, combination = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return first[order].tolist(), np.argsort(order)[combination]


def _array(name: str, values: Any) -> Any:
    """Return a column in the type of its field."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        return _converted(name, values)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    # Money is no binary fraction, and a cast would take the unit of a time for milliseconds.
    if pa.types.is_floating(values.type) or pa.types.is_temporal(values.type):
        raise refused(f"{name} is of the type {values.type}")
    return _converted(name, values)


def _converted(name: str, values: Any) -> Any:
    type_ = _TYPES.get(name, pa.string())
    try:
        return values.cast(type_) if isinstance(values, pa.Array) else pa.array(values, type=type_)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise refused(f"{name}: {error}") from error


def _tags(text: object) -> dict[str, str]:
    if not text:
        return {}
    found = json.loads(text) if isinstance(text, str) else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("tags that are not the JSON text of an object of texts")
    return found


def _required(field: Any) -> bool:
    return field.name != "amount" and field.default is MISSING and field.default_factory is MISSING


def refused(what: str) -> CounterfoilError:
    """Return the error that something is no batch of charges."""
    return CounterfoilError(Code.INVALID_ARGUMENT, f"a batch is not of charges: {what}")
