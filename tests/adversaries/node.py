"""A dishonest node: the ordinary node program under an adversary, and with a heavier hand with invoices.

Its invoice claims an eighth more output tokens than its meter counted, whatever else it does.

    python -m tests.adversaries.node NAME serve --config node.toml [--ready-file FILE]
    python -m tests.adversaries.node NAME invoice --config node.toml --out invoice.json
    python -m tests.adversaries.node --list
"""

import sys
from pathlib import Path

if (
    not __package__
):  # run by its path: this folder's modules are not top-level ones, the repository's are
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import json
from dataclasses import replace

from execution_layer.node.billing import invoice_nodes, write_invoice
from execution_layer.node.invoice import Invoice, InvoiceLine, amount_of, total_up
from execution_layer.node.settings import NodeSettings
from execution_layer.wiring import node
from shared.runtime.config import load
from tests.adversaries.catalogue import ADVERSARIES


def inflated(invoice: Invoice) -> Invoice:
    """Claim an eighth more output tokens, rounded up, in every line."""

    def more(line: InvoiceLine) -> InvoiceLine:
        if line.kind != "output":
            return line
        quantity = line.quantity + -(-line.quantity // 8)
        amount = amount_of(quantity, line.unit_price, line.per)
        return replace(line, quantity=quantity, amount=amount)

    return total_up(replace(invoice, lines=tuple(more(line) for line in invoice.lines)))


def listing() -> str:
    """Return what there is to choose from, as JSON: by name, what a node does, and why a run may not show it."""
    return json.dumps(
        {one.name: {"does": one.summary, "seldom": one.seldom} for one in ADVERSARIES.values()}
    )


def main() -> int:
    """Serve, write the invoice, or list the adversaries."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("name", nargs="?", choices=sorted(ADVERSARIES))
    parser.add_argument("command", nargs="?", choices=("serve", "invoice"))
    parser.add_argument("--config", type=Path)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.list:
        print(listing())
        return 0
    if options.name is None or options.command is None or options.config is None:
        parser.error("a name, a command and --config are needed")
    if options.command == "invoice":
        write_invoice(inflated(invoice_nodes((options.config,), None, None)), options.out)
        return 0
    settings = load(NodeSettings, options.config, env_prefix="COUNTERFOIL_NODE")
    with ADVERSARIES[options.name].applied():
        return node.serve(settings, ready_file=options.ready_file)


if __name__ == "__main__":
    sys.exit(main())
