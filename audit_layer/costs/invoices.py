"""An operator's invoice as a file: parsed strictly, believed in nothing.

```json
{"invoice_id": "…", "operator": "…", "currency": "EUR", "period_start": "…Z", "period_end": "…Z", "issued_at": "…Z",
 "lines": [{"line_id": "…", "tenant": "…", "node": "…", "model_root": "<hex>", "day": "2026-11-23", "kind": "output",
            "quantity": 1200, "unit_price": "0.60", "per": 1000000, "amount": "0.00072"}],
 "rounding": "0.00012", "total": "0.01"}
```
"""

import json
import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from audit_layer.costs.rating import TokenKind
from shared.runtime.errors import Code, CounterfoilError

MAX_BYTES = 16 * 2**20
PLAIN = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,18})?", re.ASCII)


def _decimal(value: object) -> Decimal:
    if not isinstance(value, str) or not PLAIN.fullmatch(value):
        raise ValueError("money is a string in plain decimal notation")
    return Decimal(value)


Money = Annotated[Decimal, BeforeValidator(_decimal)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InvoiceLine(_Strict):
    """One billed quantity: tokens of one kind, for one tenant, node, model and day (UTC)."""

    line_id: Annotated[str, Field(max_length=128)]
    tenant: Name
    node: Name
    model_root: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    day: date
    kind: TokenKind
    quantity: Annotated[int, Field(ge=0, le=2**63, strict=True)]
    unit_price: Money
    per: Annotated[int, Field(ge=1, le=10**9, strict=True)]
    amount: Money


class Invoice(_Strict):
    """One operator's invoice for one period [start, end)."""

    invoice_id: Annotated[str, Field(min_length=1, max_length=128)]
    operator: Name
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    period_start: date
    period_end: date
    issued_at: Annotated[str, Field(max_length=40)]
    lines: Annotated[list[InvoiceLine], Field(max_length=1_000_000)]
    rounding: Money
    total: Money

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse an invoice file; MALFORMED names the first few fields that are wrong."""
        if len(data) > MAX_BYTES:
            raise CounterfoilError(Code.MALFORMED, f"the invoice is over {MAX_BYTES} bytes")
        try:
            return cls.model_validate(json.loads(data))
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
            )
            raise CounterfoilError(Code.MALFORMED, f"the invoice is not valid: {wrong}") from error
        except (ValueError, RecursionError) as error:
            raise CounterfoilError(Code.MALFORMED, "the invoice is not JSON") from error
