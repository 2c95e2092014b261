"""The runnable dishonest node, and its page in the documentation."""

import json
import subprocess
import sys
from pathlib import Path

from execution_layer.node.invoice import Invoice, InvoiceLine, amount_of, total_up
from tests.adversaries import node, reference
from tests.adversaries.catalogue import ADVERSARIES

ROOT = Path(__file__).resolve().parents[2]


def test_run_by_its_path_from_anywhere_it_lists_every_adversary(tmp_path):
    command = [sys.executable, node.__file__, "--list"]
    told = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout)
    assert {name: item["does"] for name, item in told.items()} == {
        name: adversary.summary for name, adversary in ADVERSARIES.items()
    }


def test_the_page_is_made_from_the_catalogue():
    page = (ROOT / "docs" / "adversaries.md").read_text("utf-8")
    assert page == reference.reference(), "run `make generate`"
    assert all(f"| `{name}` |" in page for name in ADVERSARIES)


def billed(kind: str, quantity: int) -> InvoiceLine:
    return InvoiceLine(
        line_id=kind,
        tenant="acme",
        node="node-c",
        model_root="ab" * 32,
        day="2026-03-01",
        kind=kind,
        quantity=quantity,
        unit_price="0.60",
        per=1000,
        amount=amount_of(quantity, "0.60", 1000),
    )


def test_the_invoice_claims_an_eighth_more_output_tokens_and_nothing_else():
    honest = Invoice(
        invoice_id="1",
        operator="op",
        currency="EUR",
        period_start="2026-03-01",
        period_end="2026-04-01",
        issued_at="2026-04-01T00:00:00Z",
        lines=(billed("input", 100), billed("output", 17)),
        rounding="0",
        total="0",
    )
    claimed = node.inflated(honest)
    assert [(line.quantity, line.amount) for line in claimed.lines] == [
        (100, amount_of(100, "0.60", 1000)),
        (20, amount_of(20, "0.60", 1000)),
    ]
    assert claimed == total_up(claimed)
