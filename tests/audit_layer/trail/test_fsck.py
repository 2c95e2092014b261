"""The trail's own check finds whatever was changed behind the server's back, and stays silent about what was not."""

from dataclasses import replace

import pytest

from audit_layer.trail.models import OrderRow, ReceiptRow, StatementRow, VerdictRow
from audit_layer.trail.service import Submission
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.receipts import Receipt
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World

NOT_SIGNED = {"recorded_at"}
"""When the server wrote a row is its own affair."""


@pytest.fixture
def filled(world: World) -> World:
    """Three receipts and a verdict."""
    receipts = world.put(*(world.node.receipt("acme") for _ in range(3)))
    world.put(Submission(made.verdict(receipts[0].entry)))
    assert world.fsck() == []
    return world


def newest(world: World, table: str, column: str = "log_index") -> bytes:
    query = f"SELECT entry FROM {table} ORDER BY {column} DESC LIMIT 1"  # noqa: S608  # constants
    ((entry,),) = world.rows(query)
    return bytes(entry)


def test_a_trail_that_nobody_touched_is_as_it_was_signed(filled: World):
    assert filled.fsck() == []


@pytest.mark.parametrize("kind", [StatementRow, OrderRow, ReceiptRow, VerdictRow])
def test_a_changed_row_is_found_whichever_column_was_changed(filled: World, kind):
    """Every column of what was signed, one by one, through the owner's connection."""
    table = kind.__table__
    name = table.name
    order = "number" if kind is OrderRow else "log_index"
    entry = newest(filled, name, order)
    columns = [column.name for column in table.columns if column.name not in NOT_SIGNED]
    assert len(columns) >= 5
    for column in columns:
        ((old,),) = filled.rows(f"SELECT {column} FROM {name} WHERE entry = %s", entry)  # noqa: S608
        new = _other(old, column)
        update = f"UPDATE {name} SET {column} = %s WHERE entry = %s"  # noqa: S608
        filled.rows(update, new, entry)
        found = filled.fsck()
        filled.rows(update, old, new if column == "entry" else entry)
        assert found, f"{name}.{column} was changed and nobody noticed"
        assert not [line for line in found if "Traceback" in line]
    assert filled.fsck() == []


def _other(value: object, column: str) -> object:
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1000
    if value is None:
        return (
            7
            if column in {"compute_ms", "energy_mj", "max_input_tokens", "max_ms", "place"}
            else bytes(32)
        )
    return f"{value}x"


@pytest.mark.parametrize(
    ("table", "order"),
    [
        ("trail_statements", "log_index"),
        ("trail_orders", "number"),
        ("trail_receipts", "log_index"),
        ("trail_verdicts", "log_index"),
    ],
)
def test_a_missing_row_is_found(filled: World, table, order):
    filled.rows(f"DELETE FROM {table} WHERE entry = %s", newest(filled, table, order))  # noqa: S608
    assert filled.fsck()


def test_a_missing_key_bundle_is_noticed_by_its_receipts(filled: World):
    filled.rows("DELETE FROM trail_statements WHERE entry = %s", filled.bundle)
    found = filled.fsck()
    assert any("bundle is missing" in line for line in found)
    assert any("different entries" in line for line in found)


@pytest.mark.parametrize("table", ["trail_statements", "trail_orders"])
def test_a_changed_statement_byte_is_found_wherever_it_is(filled: World, table):
    order = "number" if table == "trail_orders" else "log_index"
    name = "receipt" if table == "trail_statements" else None
    if name:
        ((entry,),) = filled.rows(
            "SELECT entry FROM trail_statements WHERE type = %s ORDER BY log_index DESC LIMIT 1",
            name,
        )
    else:
        entry = newest(filled, table, order)
    ((raw,),) = filled.rows(f"SELECT raw FROM {table} WHERE entry = %s", entry)  # noqa: S608
    update = f"UPDATE {table} SET raw = %s WHERE entry = %s"  # noqa: S608
    places = [*range(0, len(raw), 29), len(raw) - 1]
    for spoiled in (*(_flip(raw, at) for at in places), raw[:-1], raw + b"\0", b""):
        filled.rows(update, spoiled, entry)
        assert filled.fsck(), "a changed byte was not noticed"
    filled.rows(update, raw, entry)
    assert filled.fsck() == []


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_receipt_rewritten_in_all_its_rows_is_not_what_the_log_has(filled: World):
    """Whoever holds the database and the node's key still cannot change the past."""
    ((entry, raw),) = filled.rows(
        "SELECT entry, raw FROM trail_statements WHERE type = 'receipt' ORDER BY log_index LIMIT 1"
    )
    receipt, _ = open_as(Receipt, raw, None)
    cheaper = replace(receipt, usage=replace(receipt.usage, output=1))
    forged = sign(cheaper, key=made.key("alpha/one"), issuer="alpha/one")
    filled.rows(
        "UPDATE trail_statements SET raw = %s, entry = %s WHERE entry = %s",
        forged,
        entry_of(forged),
        entry,
    )
    filled.rows(
        "UPDATE trail_receipts SET entry = %s, output_tokens = 1 WHERE entry = %s",
        entry_of(forged),
        entry,
    )
    found = filled.fsck()
    assert any("different entries" in line for line in found)


def test_a_cancellation_that_the_orders_tenant_did_not_sign_is_found(world: World):
    """Whoever holds the database and the node's key cannot make a tenant have cancelled."""
    (accepted,) = world.put(world.node.receipt("acme", cancelled=True))
    assert world.fsck() == []
    ((raw,),) = world.rows("SELECT raw FROM trail_statements WHERE entry = %s", accepted.entry)
    receipt, _ = open_as(Receipt, raw, None)
    cancel = sign_cancellation(receipt.order, made.key("alpha/one"))
    forged = sign(replace(receipt, cancel=cancel), key=made.key("alpha/one"), issuer="alpha/one")
    world.rows(
        "UPDATE trail_statements SET raw = %s, entry = %s WHERE entry = %s",
        forged,
        entry_of(forged),
        accepted.entry,
    )
    world.rows(
        "UPDATE trail_receipts SET entry = %s WHERE entry = %s", entry_of(forged), accepted.entry
    )
    assert any("cancellation is not signed" in line for line in world.fsck())


def test_statements_that_were_swapped_are_found(filled: World):
    (first, second) = filled.rows(
        "SELECT log_index FROM trail_statements ORDER BY log_index LIMIT 2"
    )
    move = "UPDATE trail_statements SET log_index = %s WHERE log_index = %s"
    for to, origin in ((10_000, first), (first[0], second), (second[0], (10_000,))):
        filled.rows(move, to, *origin)
    assert len([line for line in filled.fsck() if "different entries" in line]) == 2


def test_a_row_that_the_log_never_had_is_found(filled: World):
    filled.rows(
        "INSERT INTO trail_statements SELECT decode(repeat('ab', 32), 'hex'), 5000, type, signer,"
        " issuer, subject, raw, recorded_at FROM trail_statements WHERE entry = %s",
        filled.bundle,
    )
    assert any("different entries" in line for line in filled.fsck())


def test_a_receipt_that_names_another_predecessor_than_the_one_before_it_is_found(world: World):
    world.put(world.node.receipt("acme"))
    world.node.previous = made.some("another past")
    world.put(world.node.receipt("acme"))
    (found,) = world.fsck()
    assert "alpha/one" in found
    assert "predecessor" in found


def test_receipts_that_have_not_arrived_yet_break_no_chain(world: World):
    first, second, third = (world.node.receipt("acme") for _ in range(3))
    world.put(third)
    assert world.fsck() == []
    world.put(first)
    assert world.fsck() == []
    world.put(second)
    assert world.fsck() == []
