"""`counterfoil cost` for people and for programs: rate, report, reconcile, export."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from audit_layer.api.tokens import Access, Role
from audit_layer.commands.cost import cost
from audit_layer.commands.cost_client import Api, Streamed
from audit_layer.costs.api.routes import cost_router
from audit_layer.costs.exports.focus_csv import COLUMNS
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import install_problem_handlers
from shared.runtime.problems import from_problem
from shared.runtime.queries import STRICT
from shared.statements.receipts import Finish
from tests.audit_layer.costs.log_proofs import LogProofs
from tests.audit_layer.costs.test_service import AFTER, FIRST, Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]


class Command:
    """The command, over the routes of an application on the books' database."""

    def __init__(self, held: Books, by: str = "finance") -> None:
        app = FastAPI()
        install_problem_handlers(app)

        def caller() -> Access:
            return Access(Role.FINANCE, None, by)

        engine = held.world.database.engine("server")
        app.include_router(
            cost_router(engine, LogProofs(held.world.database), caller),
            dependencies=[STRICT],
        )
        self.client = TestClient(app, raise_server_exceptions=False)

    def answer(self, method: str, path: str, parameters: dict, body: Any = None) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        answer = self.client.request(method, f"/v1/costs{path}", params=given, json=body)
        if answer.status_code != 200:
            raise from_problem(answer.status_code, answer.content, "https://audit")
        return answer

    def _given(self, arguments: tuple[str, ...]) -> list[str]:
        asking = ("--url", "https://audit", "--token-file", __file__, "--ca", __file__)
        return [*arguments, *asking]

    @contextmanager
    def stream(self, path: str, parameters: dict) -> Iterator[Streamed]:
        answer = self.answer("GET", path, parameters)
        yield Streamed(answer.headers, answer.iter_bytes(1000))

    @contextmanager
    def routed(self) -> Iterator[None]:
        """Let the commands talk to the application instead of a server."""
        with (
            patch.object(Api, "answer", lambda _, *given: self.answer(*given)),
            patch.object(Api, "stream", lambda _, *given: self.stream(*given)),
        ):
            yield

    def text(self, *arguments: str, code: int = 0) -> str:
        with self.routed():
            result = CliRunner().invoke(cost, self._given(arguments), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout

    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and messages as the program gives them."""
        with self.routed():
            code = run(cost, self._given(arguments))
        return code, *capsys.readouterr()

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.text(*arguments, "--json", code=code))


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


def test_what_is_not_paid_is_listed_with_whole_entries(books: Books, command: Command):
    assert "payable" in command.text("unpaid")
    entry = books.receipt(finish=Finish.FAILED)
    command.json("rate")
    assert f"receipt  {entry.hex()}" in command.text("unpaid")
    assert "never rated): failed" in command.text("unpaid")
    (row,) = command.json("unpaid")
    assert (row["receipt"], row["state"], row["amount"]) == (entry.hex(), "refused", None)
    assert command.json("unpaid", "--tenant", "bolt") == []
    assert command.json("fsck") == {"findings": []}


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
    assert (told["file"], told["rows"]) == (str(path), 2)
    assert told["sha256"] == sha256(path.read_bytes()).hexdigest()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["BillingAccountId"] for row in rows} == {"bolt"}
    assert path.read_bytes().count(b"\r\n") == 3


MISTAKES = {
    ("--from", "yesterday"): "--from 'yesterday'",
    ("--from", "1793491200"): "--from '1793491200'",
    ("--to", "20261201"): "--to '20261201'",
    (
        "--from",
        "2026-12-01",
        "--to",
        "2026-11-01",
    ): "begins on 2026-12-01 and ends before 2026-11-01",
    ("--from", "2026-12-01", "--to", "2026-12-01"): "ends before 2026-12-01",
    ("--from", "9999-12-01"): "the year 10000",
    ("--from", "0001-01-01", "--to", "0001-02-01"): "1970 … 9999",
    ("--time-zone", "Mars/Base"): "Mars/Base",
    ("--tenant", "a\x1bb"): "--tenant",
    ("--tenant", "=1+1"): "--tenant",
    ("--operator", "Alpha"): "--operator",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=ascii)
def test_a_mistake_in_the_period_or_a_name_is_reported_before_anything_is_written(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    path = tmp_path / "x.csv"
    code, _, told = command.run(capsys, "export", "--out", str(path), *arguments)
    assert code == 2
    assert MISTAKES[arguments] in told
    assert not path.exists()


def test_an_export_of_nothing_writes_nothing_and_says_so(
    books: Books, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit code 4, unless an empty file is requested; unrated receipts are named as the reason."""
    path = tmp_path / "focus.csv"
    path.write_text("last month")
    days = ("--out", str(path), "--from", str(FIRST), "--to", str(AFTER))
    books.receipt()
    code, _, told = command.run(capsys, "export", *days)
    assert code == 4
    assert "nothing was charged" in told
    assert "counterfoil cost rate" in told
    command.json("rate")
    code, _, told = command.run(capsys, "export", *days, "--tenant", "bolt")
    assert code == 4
    assert path.read_text() == "last month"
    assert command.json("export", *days, "--tenant", "bolt", "--allow-empty")["rows"] == 0
    assert path.read_text().strip() == ",".join(COLUMNS)


def test_an_export_replaces_a_file_whole_and_names_one_that_it_cannot_write(
    books: Books, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    books.receipt()
    command.json("rate")
    path = tmp_path / "focus.csv"
    path.write_text("x" * 100_000)
    days = ("--from", str(FIRST), "--to", str(AFTER))
    command.json("export", "--out", str(path), *days)
    assert path.read_bytes().count(b"\r\n") == 3
    assert b"x" * 9 not in path.read_bytes()
    away = str(tmp_path / "nowhere" / "focus.csv")
    code, _, told = command.run(capsys, "export", "--out", away, *days)
    assert code == 2
    assert f"{away} cannot be written: No such file" in told


def test_a_refused_invoice_is_reported_in_printable_lines(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "invoice.json"
    for content, expected, said in (
        (invoice(line("output", 7, "2"), invoice_id="X\t\u202e\0"), 3, "U+0009"),
        (invoice(line("output", 7, "2"), operator="gamma"), 4, "gamma"),
    ):
        path.write_bytes(content)
        code, out, told = command.run(capsys, "reconcile", str(path))
        assert (code, out) == (expected, "")
        assert said in told
        assert all(part.isprintable() for part in told.splitlines())


def test_an_id_that_looks_like_markup_is_shown_as_it_is(
    books: Books, command: Command, tmp_path: Path
):
    books.receipt()
    command.json("rate")
    path = tmp_path / "invoice.json"
    path.write_bytes(invoice(line("output", 7, "2"), invoice_id="[red]7[/red]"))
    assert "[red]7[/red]" in command.text("reconcile", str(path))
