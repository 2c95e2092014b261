"""A dishonest node: the ordinary node program, given other weights and a heavier hand with invoices.

It serves the checkpoint's weights rounded to eight bits while it claims the checkpoint's own model root, and its invoice claims
an eighth more output tokens than its meter counted.

    python tests/adversaries/int8_node.py serve --config node.toml [--ready-file FILE]
    python tests/adversaries/int8_node.py invoice --config node.toml --out invoice.json
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from execution_layer.node.billing import invoice_nodes, write_invoice
from execution_layer.node.invoice import Invoice, InvoiceLine, amount_of, total_up
from execution_layer.node.settings import NodeSettings
from execution_layer.wiring import node
from shared.model.backend import Backend
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, load_decoder
from shared.model.weights import Weights, load_weights
from shared.runtime.config import load


def rounded_to_int8(weight: Tensor) -> Tensor:
    """Round every row to 255 levels, symmetric about zero, as weight-only quantisation does."""
    if weight.dim() != 2:
        return weight
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return ((weight.float() / scale).round() * scale).to(weight.dtype)


def load_rounded(folder: Path, config: ModelConfig) -> Weights:
    """Load a checkpoint's weights, rounded."""
    return {name: rounded_to_int8(weight) for name, weight in load_weights(folder, config).items()}


def load_cheap_decoder(folder: Path, *, backend: Backend) -> Decoder:
    """Load the decoder that is served instead of the one that is claimed."""
    return load_decoder(folder, weights_loader=load_rounded, backend=backend)


def inflated(invoice: Invoice) -> Invoice:
    """Claim an eighth more output tokens, rounded up, in every line."""

    def more(line: InvoiceLine) -> InvoiceLine:
        if line.kind != "output":
            return line
        quantity = line.quantity + -(-line.quantity // 8)
        amount = amount_of(quantity, line.unit_price, line.per)
        return replace(line, quantity=quantity, amount=amount)

    return total_up(replace(invoice, lines=tuple(more(line) for line in invoice.lines)))


def main() -> int:
    """Serve, or write the invoice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("serve", "invoice"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.command == "serve":
        settings = load(NodeSettings, options.config, env_prefix="COUNTERFOIL_NODE")
        return node.serve(settings, ready_file=options.ready_file, load_decoder=load_cheap_decoder)
    write_invoice(inflated(invoice_nodes((options.config,), None, None)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
