"""What is wrong with a file that a person wrote, in words: each field by name, with the name that was probably meant. Pure."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.runtime.printable import printable

SYNONYMS: Final = {
    "amount_due": "total",
    "date": "day",
    "id": "invoice_id",
    "invoice_date": "issued_at",
    "invoice_no": "invoice_id",
    "invoice_number": "invoice_id",
    "issue_date": "issued_at",
    "items": "lines",
    "line_items": "lines",
    "model": "model_root",
    "number": "invoice_id",
    "provider": "operator",
    "qty": "quantity",
    "supplier": "operator",
    "timezone": "time_zone",
    "tz": "time_zone",
    "token_type": "kind",
    "tokens": "quantity",
    "type": "kind",
    "vendor": "operator",
}
"""What other programs call the fields of an invoice."""
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Known = Mapping[tuple[str, ...], Sequence[str]]
"""The fields of each object, by its place (list positions omitted)."""


def told(error: ValidationError, known: Known, most: int) -> str:
    """Return the first `most` problems in one line, and how many more there are."""
    found = error.errors(include_url=False, include_input=False)
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return "; ".join([*(_problem(item, known) for item in found[:most]), *more])


def _problem(item: ErrorDetails, known: Known) -> str:
    where = ".".join(_shown(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] != "extra_forbidden":
        return f"{where}: {message}" if where else message
    *parents, last = item["loc"]
    meant = _meant(str(last), known.get(tuple(p for p in parents if isinstance(p, str)), ()))
    return f"unknown field {where}" + (f"; did you mean {meant}?" if meant else "")


def _meant(name: str, fields: Sequence[str]) -> str | None:
    plain = _CAMEL.sub("_", name).lower().replace("-", "_").replace(" ", "_")
    plain = SYNONYMS.get(plain, plain)
    if plain in fields:
        return plain
    return next(iter(difflib.get_close_matches(plain, fields, n=1)), None)


def _shown(part: int | str) -> str:
    """Return a name safe for a terminal: it comes from the file."""
    return printable(str(part), 60)
