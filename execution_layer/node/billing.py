"""Invoice files: one operator's nodes, one month, one JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path

from execution_layer.node.invoice import Invoice, make_invoice, read_meter
from execution_layer.node.settings import NodeSettings
from shared.codec.ids import check_label
from shared.codec.moment import day_of, now_ms, parse_month
from shared.runtime.config import load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_result


def invoice_nodes(
    configs: Sequence[Path], month: str | None = None, invoice_id: str | None = None
) -> Invoice:
    """Make the invoice for a month (YYYY-MM, UTC; default: this one) of the nodes with these configurations."""
    if invoice_id is not None:
        check_label(invoice_id, "the invoice's id")
    issued = now_ms()
    period = parse_month(month or day_of(issued).strftime("%Y-%m"))
    day_of(period.end)  # refuse an unrepresentable bound before anything is read
    settings = [load(NodeSettings, path) for path in configs]
    operators = sorted({item.operator for item in settings})
    if len(operators) != 1:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"an invoice is for one operator, not for {' and '.join(operators)}",
        )
    if len({item.node for item in settings}) != len(settings):
        raise CounterfoilError(Code.INVALID_ARGUMENT, "a node is named twice")
    nodes = [read_meter(item, period) for item in settings]
    return make_invoice(operators[0], nodes, period, issued_ms=issued, invoice_id=invoice_id)


def write_invoice(invoice: Invoice, path: Path) -> None:
    """Write the invoice as JSON."""
    write_result(path, (json.dumps(invoice.to_json(), indent=2) + "\n").encode())
