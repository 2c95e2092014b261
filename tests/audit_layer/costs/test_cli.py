"""`counterfoil cost` for people and for programs: rate, report, reconcile, export."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_layer.costs.cli import cost
from audit_layer.costs.focus import COLUMNS
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.test_service import AFTER, FIRST, Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]


class Command:
    """The command on the books' database."""

    def __init__(self, held: Books) -> None:
        self._dsn = str(held.world.database.dsn_file("server"))

    def text(self, *arguments: str) -> str:
        result = CliRunner().invoke(
            cost, [*arguments, "--dsn-file", self._dsn], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--json"))


@pytest.fixture
def command(books: Books) -> Command:
    return Command(books)


def test_receipts_are_rated_and_reported_by_operator_and_node(books: Books, command: Command):
    for _ in range(2):
        books.receipt()
    assert command.json("rate") == {"rated_receipts": 2}
    assert command.json("rate") == {"rated_receipts": 0}
    (row,) = command.json("report")
    assert (row["operator"], row["receipts"], row["amount"]) == ("alpha", 2, "0.038")
    assert "0.038" in command.text("report")
    assert command.json("report", "--tenant", "bolt") == []


def test_an_invoice_is_explained_exactly_and_for_people(
    books: Books, command: Command, tmp_path: Path
):
    books.receipt()
    command.json("rate")
    path = tmp_path / "invoice.json"
    path.write_bytes(invoice(line("input", 5, "1"), line("output", 7 + 61, "2")))
    found = command.json("reconcile", str(path))
    assert found["gap"] == found["parts"]["quantity"] == "0.122"
    assert found["keys"][0]["tokens"]["output"] == 61
    assert found == command.json("reconcile", str(path))
    shown = command.text("reconcile", str(path))
    assert "quantity" in shown
    assert "0.122000" in shown
    path.write_bytes(invoice(line("output", 1, "2")))
    with pytest.raises(CounterfoilError) as caught:
        command.text("reconcile", str(path))
    assert caught.value.code is Code.CONFLICT


def test_an_export_is_a_csv_of_the_days_asked_for(books: Books, command: Command, tmp_path: Path):
    books.receipt()
    books.receipt("bolt")
    command.json("rate")
    path = tmp_path / "focus.csv"
    days = ("--from", str(FIRST), "--to", str(AFTER))
    told = command.json("export", "--out", str(path), "--tenant", "bolt", *days)
    assert told == {"file": str(path), "rows": 2, "from": str(FIRST), "to": str(AFTER)}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["BillingAccountId"] for row in rows} == {"bolt"}
    assert path.read_bytes().count(b"\r\n") == 3


def test_a_day_that_is_none_is_a_mistake_in_the_command(command: Command, tmp_path: Path):
    result = CliRunner().invoke(
        cost,
        ["export", "--out", str(tmp_path / "x"), "--from", "yesterday", "--dsn-file", command._dsn],
    )
    assert result.exit_code == 2
    assert "YYYY-MM-DD" in result.output
