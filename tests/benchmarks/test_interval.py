"""The simulated invoices are what they are said to be, and the figures cover what was overbilled."""

import random
from decimal import Decimal

from click.testing import CliRunner

from benchmarks.interval.__main__ import main
from benchmarks.interval.figures import OVERBILLED, RATES_PPM, drawn, figures


def test_an_invoice_adds_up():
    one = drawn(random.Random(1), 2000, 50_000, 0.1)
    assert sum(each.count for each in one.receipts) == 2000
    assert sum(each.amount * each.count for each in one.receipts) == one.amount
    audited = [each for each in one.receipts if each.finding is not None]
    assert 50 < sum(each.count for each in audited) < 160
    assert Decimal("0.05") < one.overbilled / one.amount < Decimal("0.2")


def test_figures_are_in_percent_and_nearly_always_cover():
    found = figures([300], 3)
    assert len(found["rows"]) == len(RATES_PPM) * len(OVERBILLED)
    for row in found["rows"]:
        for kind in ("adaptive", "fixed"):
            limits = row[kind]
            assert 0 <= limits["low"]["median"] <= limits["high"]["median"] <= 100
            assert limits["covered"] >= 2
        assert row["fixed"]["high"]["median"] <= row["adaptive"]["high"]["median"]
    assert max(row["fixed"]["high"]["median"] for row in found["rows"]) > 20


def test_the_program_prints_a_table_and_writes_its_figures(tmp_path):
    file = tmp_path / "interval.json"
    result = CliRunner().invoke(main, ["--quick", "--rounds", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "1,000" in result.output
    assert '"benchmark": "interval"' in file.read_text("utf-8")
