"""`counterfoil cost budget`: set, list, check with its exit code, end."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from shared.statements.tags import TagKey
from tests.audit_layer.commands.test_cost import Command, command
from tests.audit_layer.costs.test_service import Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "command", "world"]

KEY = TagKey(bytes(range(32)))
ACME = ("--tenant", "acme")
EUROS = ("--currency", "EUR")


def test_a_budget_is_checked_and_a_reached_threshold_is_an_exit_code(
    books: Books, command: Command, capsys: pytest.CaptureFixture[str]
):
    assert command.json("budget", "check") == []
    assert command.run(capsys, "budget", "check")[0] == 0
    row = command.json("budget", "set", "all", *ACME, *EUROS, "--amount", "0.05")
    assert (row["amount"], row["thresholds"], row["recorded_by"]) == (
        "0.05",
        [50, 80, 100],
        "finance",
    )
    assert command.json("budget", "set", "all", *ACME, *EUROS, "--amount", "0.05") == row
    books.receipt()
    command.json("rate")
    (found,) = command.json("budget", "check")
    assert (found["spent"], found["crossed"]) == ("0.019", [])
    assert Fraction(found["forecast"]) > Fraction(found["spent"])
    books.receipt()
    command.json("rate")
    (found,) = command.json("budget", "check")
    assert (found["spent"], found["crossed"]) == ("0.038", [50])
    code, shown, _ = command.run(capsys, "budget", "check")
    assert code == 3
    assert "0.038000 (76.0 %)" in shown
    assert "reached   50 %" in shown
    assert "costs as much an hour" in shown
    assert command.json("budget", "check", "--tenant", "bolt") == []
    (past,) = command.json("budget", "check", "--month", "2026-01")
    assert (past["month"], past["spent"], past["forecast"]) == ("2026-01", "0", "0")
    assert "all" in command.text("budget", "list")
    assert command.json("budget", "end", "all", *ACME)["active"] is False
    assert command.json("budget", "list") == []


def test_the_tags_of_a_budget_are_blinded_on_this_machine(
    books: Books, command: Command, tmp_path: Path
):
    key = tmp_path / "tags.key"
    key.write_text(f"{KEY.raw.hex()}\n")
    key.chmod(0o600)
    asked = ("--tag-key", str(key), "--tag", "team=search", "--tag", "project=x")
    row = command.json("budget", "set", "search", *ACME, *EUROS, "--amount", "1", *asked)
    centre = KEY.blind("acme", {"team": "search", "project": "x"})
    assert row["cost_centre"] == centre.hex()
    books.receipt(cost_centre=centre)
    books.receipt()
    command.json("rate")
    (found,) = command.json("budget", "check")
    assert found["spent"] == "0.019"
    assert centre.hex()[:16] in command.text("budget", "check")


def test_what_is_billed_in_another_currency_counts_at_the_contracts_rate(
    books: Books, command: Command, tmp_path: Path
):
    terms = {
        "tenant": "acme",
        "operator": "alpha",
        "valid_from": "1970-01-01",
        "currency": "CHF",
        "time_zone": "Europe/Berlin",
        "fx": [{"currency": "EUR", "valid_from": "1970-01-01", "rate": "0.92"}],
    }
    path = tmp_path / "contract.json"
    path.write_text(json.dumps(terms))
    command.json("contract", "record", str(path))
    books.receipt()
    command.json("rate")
    for currency in ("CHF", "EUR"):
        command.json("budget", "set", currency.lower(), *ACME, "--currency", currency, "--amount", "1")  # fmt: skip
    francs, euros = command.json("budget", "check")
    assert (francs["spent"], francs["other_currencies"]) == ("0.01748", {})
    assert (euros["spent"], euros["other_currencies"]) == ("0", {"CHF": "0.01748"})
    assert "not counted: 0.017480 CHF" in command.text("budget", "check")
    (team, *rest) = command.json("teams", "--period", "1")["rows"]
    assert (team["amount"], team["currency"]) == ("0.01748", "CHF")
    total = sum(Fraction(row["amount"]) for row in (team, *rest))
    assert total == Fraction(command.json("bill", "1")["total"])


MISTAKES = {
    ("--amount", "-1"): "more than nothing",
    ("--amount", "1e3"): "plain decimal",
    ("--amount", "1", "--thresholds", "50,x"): "percentages",
    ("--amount", "1", "--thresholds", "80,50"): "ascending",
    ("--amount", "1", "--cost-centre", "ab"): "cost_centre",
    ("--amount", "1", "--tag", "team=search"): "--tag-key",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=ascii)
def test_what_is_no_budget_is_refused_in_words(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    code, _, told = command.run(capsys, "budget", "set", "all", *ACME, *EUROS, *arguments)
    assert code in {2, 3}
    assert MISTAKES[arguments] in told
