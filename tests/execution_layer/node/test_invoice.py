"""The invoice is the meter times the rate card, exactly, and failed requests are not on it."""

import json
from decimal import Decimal

import pytest

from execution_layer.commands.node import node as node_group
from execution_layer.node.billing import invoice_nodes, write_invoice
from execution_layer.node.invoice import (
    MeteredNode,
    amount_of,
    load_rate_card,
    make_invoice,
    read_meter,
)
from execution_layer.node.operators import Operator, price, rate_card
from execution_layer.node.request_records import MeterRow
from execution_layer.node.store import meter_rows
from shared.codec.moment import parse_month
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import MODEL_ROOT

PERIOD = parse_month("2026-02")
ENTRY = b"\x01" * 32


def meter(**changes):
    values = {
        "tenant": "acme",
        "model_root": MODEL_ROOT,
        "day": "2026-02-03",
        "rate_card": ENTRY,
        "input": 1000,
        "cached": 400,
        "output": 77,
        "requests": 3,
        **changes,
    }
    return MeterRow(**values)


def card(tmp_path, currency="EUR", name="standard", **changes):
    operator = Operator.create(tmp_path / "operator", "honest")
    prices = {"fresh": "0.30", "cached": "0.03", "output": "0.61", "per": 1000, **changes}
    return rate_card(operator, name, currency, (price(MODEL_ROOT, **prices),), 1)


def invoice(*nodes):
    return make_invoice("honest", nodes, PERIOD, issued_ms=PERIOD.end)


def test_lines_are_exact_and_the_total_is_rounded_once(tmp_path):
    made = invoice(MeteredNode("n1", [meter()], {ENTRY: card(tmp_path)}))
    assert [(line.kind, line.quantity, line.amount) for line in made.lines] == [
        ("input", 600, "0.18"),  # cached input is not charged twice
        ("cached", 400, "0.012"),
        ("output", 77, "0.04697"),
    ]
    exact = sum(Decimal(line.amount) for line in made.lines)
    assert made.total == "0.24"
    assert exact + Decimal(made.rounding) == Decimal(made.total)
    assert made.period_start.startswith("2026-02-01T00:00:00")
    assert len({line.line_id for line in made.lines}) == 3


def test_line_ids_are_the_same_each_time_and_differ_between_nodes_and_days(tmp_path):
    cards = {ENTRY: card(tmp_path)}
    rows = [meter(), meter(day="2026-02-04"), meter(tenant="other")]
    nodes = [MeteredNode("n1", rows, cards), MeteredNode("n2", rows, cards)]
    first, again = invoice(*nodes), invoice(*nodes)
    names = [line.line_id for line in first.lines]
    assert names == [line.line_id for line in again.lines]
    assert len(set(names)) == 18


def test_amounts_of_any_size_are_exact():
    assert amount_of(10**15 + 1, "0.000001", 10**6) == "1000.000000000001"
    assert amount_of(1, "0.000001", 10**6) == "0.000000000001"
    assert amount_of(0, "5", 1) == "0"
    unit = "12345678901234567890123456.123456789012"
    exact = "12345678901234580235802357358024679135456.123456789012"
    assert amount_of(10**15 + 1, unit, 1) == exact
    with pytest.raises(CounterfoilError) as caught:
        amount_of(1, "5", 7)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_what_cannot_be_one_invoice_is_refused(tmp_path):
    other = b"\x02" * 32
    both = {ENTRY: card(tmp_path), other: card(tmp_path, "USD")}
    mixed = MeteredNode("n1", [meter(), meter(rate_card=other)], both)
    unpriced = MeteredNode("n1", [meter(model_root=other)], both)
    for node, code in (
        (mixed, Code.CONFLICT),
        (unpriced, Code.NOT_FOUND),
        (MeteredNode("n1", [], both), Code.NOT_FOUND),
    ):
        with pytest.raises(CounterfoilError) as caught:
            invoice(node)
        assert caught.value.code is code


@pytest.mark.parametrize("odd", ["X\t", "\u202e7", "a\0", ""])
def test_an_invoice_has_an_id_that_everybody_can_read(tmp_path, odd):
    with pytest.raises(CounterfoilError, match="invoice's id"):
        invoice_nodes([tmp_path / "node.toml"], None, odd)


@pytest.mark.parametrize("month", ["9999-12", "1969-12", "2026-13", "2026-1", "0000-01"])
def test_a_month_that_cannot_be_invoiced_is_refused_first(tmp_path, month):
    with pytest.raises(CounterfoilError) as caught:
        invoice_nodes([tmp_path / "node.toml"], month)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_an_invoice_that_cannot_be_written_is_named(tmp_path):
    made = invoice(MeteredNode("n1", [meter()], {ENTRY: card(tmp_path)}))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CounterfoilError, match="Not a directory"):
        write_invoice(made, tmp_path / "file" / "invoice.json")


@pytest.mark.parametrize(
    "wrong", [{"fresh": "0.0000001", "per": 10**6}, {"output": "-1"}, {"per": 7}, {"per": 0}]
)
def test_a_price_that_could_not_be_exact_is_refused(tmp_path, wrong):
    with pytest.raises(CounterfoilError) as caught:
        card(tmp_path, **wrong)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_rate_card_that_the_operator_did_not_sign_is_named(tmp_path):
    signer = Operator.create(tmp_path / "operator", "honest")
    stranger = Operator.create(tmp_path / "stranger", "stranger")
    file = tmp_path / "card.cose"
    file.write_bytes(signer.sign_rate_card(card(tmp_path))[0])
    assert load_rate_card(file, public_bytes(signer.key))[0].currency == "EUR"
    for path, key in ((file, stranger.key), (tmp_path / "nowhere.cose", signer.key)):
        with pytest.raises(CounterfoilError) as caught:
            load_rate_card(path, public_bytes(key))
        assert caught.value.code is Code.CONFIGURATION
        assert str(path) in caught.value.detail


async def test_the_meter_has_what_the_receipts_say_and_nothing_for_a_failure(
    world, tmp_path, capsys
):
    engine = FakeEngine()
    async with world.node(engine) as node:
        for _ in range(3):
            request = make_request(world, node, max_tokens=7)
            await ask(world, node, request.order, request.envelope)
        engine.dies_after = 2
        request = make_request(world, node, max_tokens=7)
        await ask(world, node, request.order, request.envelope)
        config = world.folder / "node-1" / "node.toml"
        out = tmp_path / "invoice.json"
        assert run(node_group, ["invoice", "--config", str(config), "--out", str(out)]) == 0
        made = json.loads(out.read_text())
    assert {line["kind"]: line["quantity"] for line in made["lines"]} == {"input": 15, "output": 21}
    assert {line["model_root"] for line in made["lines"]} == {MODEL_ROOT.hex()}
    assert made["currency"] == "EUR"
    capsys.readouterr()
    again = ["invoice", "--config", str(config), "--out", str(out), "--period"]
    assert run(node_group, [*again, "2020-01"]) == 4
    assert "nothing was metered" in capsys.readouterr().err
    assert run(node_group, [*again, "2020-13"]) != 0
    assert "Traceback" not in capsys.readouterr().err


async def test_the_meter_counts_no_answer_without_a_token(world):
    async with world.node(FakeEngine(holds_after=0)) as node:
        request = make_request(world, node, order_changes={"max_ms": 50})
        await ask(world, node, request.order, request.envelope)
        rows = node.store.journal.read(
            lambda db: meter_rows(db, first_day="2000-01-01", end_day="3000-01-01")
        )
    assert rows == []


async def test_one_invoice_is_one_operators_and_counts_no_node_twice(world):
    async with world.node():
        pass
    first = world.folder / "node-1" / "node.toml"
    world.settings("node-9", operator="shady")
    for configs in ([first, first], [first, world.folder / "node-9" / "node.toml"]):
        with pytest.raises(CounterfoilError) as caught:
            invoice_nodes(configs)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_meter_of_a_node_that_never_ran_is_not_found(tmp_path):
    class Settings:
        spool = tmp_path / "node.sqlite"
        node = "n1"

    with pytest.raises(CounterfoilError) as caught:
        read_meter(Settings, PERIOD)
    assert caught.value.code is Code.NOT_FOUND
