"""`counterfoil cost period`, `bill`, `contract` and `ledger`: what finance people keep."""

import json
from pathlib import Path
from typing import Any, Final

import click

from audit_layer.commands.cost_client import Api, day, shown, with_api
from audit_layer.commands.options import utc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table

OPERATIONS: Final = (
    *("prepay", "refund", "pay", "settle", "stake", "unstake", "slash", "award", "claim"),
    *("dispute", "uphold", "reject"),
)
_number = click.argument("number", type=click.IntRange(1))


@click.group("period")
def period() -> None:
    """Billing periods: open, soft-closed, closed by a seal in the log."""


@period.command("list")
@click.option("--tenant")
@click.option("--operator")
@with_api
def periods(api: Api, *, tenant: str | None, operator: str | None, as_json: bool) -> None:
    """Show the billing periods, the latest first."""
    rows = api.get("/periods", tenant=tenant, operator=operator)
    columns = ("id", "tenant", "operator", "currency", "days", "time zone", "state", "since")
    cells = [
        [
            *(row["id"], row["tenant"], row["operator"], row["currency"]),
            f"{day(row['start'], row['time_zone'])} … {day(row['end'] - 1, row['time_zone'])}",
            *(row["time_zone"], row["state"], None if row["since"] is None else utc(row["since"])),
        ]
        for row in rows
    ]
    emit(rows, as_json, lambda: table("Billing periods", columns, cells))


def _put(api: Api, number: int, state: str, as_json: bool) -> None:
    row = api.post(f"/periods/{number}/state", {"state": state})
    told = {
        "soft-closed": "is soft-closed: its bill can be checked, and what comes late still goes into it.",
        "closing": "will be closed by the audit authority as soon as everything is booked.",
        "open": "is open again.",
    }
    emit(
        row,
        as_json,
        lambda: (
            f"Billing period {number} {told.get(row['state'], 'is ' + str(row['state']) + '.')}"
        ),
    )


@period.command("soft-close")
@_number
@with_api
def soft_close(api: Api, *, number: int, as_json: bool) -> None:
    """Announce that period NUMBER is over, so that its bill can be checked."""
    _put(api, number, "soft-closed", as_json)


@period.command("reopen")
@_number
@with_api
def reopen(api: Api, *, number: int, as_json: bool) -> None:
    """Open soft-closed period NUMBER again; a closed one never reopens."""
    _put(api, number, "open", as_json)


@period.command("close")
@_number
@with_api
def close(api: Api, *, number: int, as_json: bool) -> None:
    """Ask for the close of soft-closed period NUMBER: the audit authority seals it in the log."""
    _put(api, number, "closing", as_json)


@click.command("bill")
@_number
@with_api
def bill(api: Api, *, number: int, as_json: bool) -> None:
    """Show the bill of billing period NUMBER: usage, discounts, fees, credits, rounding."""
    found = api.get(f"/periods/{number}/bill")

    def render() -> Any:
        foreign = found["pricing_currency"] != found["currency"]
        rate = f" ({shown(found['usage_priced'])} {found['pricing_currency']} × {found['fx_rate']})"
        rows = [
            ["usage", f"receipts at the rate card{rate if foreign else ''}", shown(found["usage"])],
            *([one["kind"], one["why"], shown(one["amount"])] for one in found["charges"]),
            ["total", "", found["total"]],
            ["held", "awaits another worker's verdict", shown(found["held"])],
            ["due", "", found["due"]],
        ]
        return table(f"Bill of period {number}", ("", "", found["currency"]), rows)

    emit(found, as_json, render)


@click.group("contract")
def contract() -> None:
    """What a tenant and an operator agreed on beyond the rate card."""


@contract.command("record")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--supersedes", type=click.IntRange(1), help="Number of the contract that it replaces."
)
@with_api
def record(api: Api, *, file: Path, supersedes: int | None, as_json: bool) -> None:
    """Record the terms in FILE (JSON; docs/cost.md lists the fields)."""
    from shared.runtime.reading import read_bounded  # noqa: PLC0415  # --help stays light

    try:
        terms = json.loads(read_bounded(file, 256 * 1024).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CounterfoilError(Code.MALFORMED, f"{file} is not JSON: {error}"[:200]) from error
    row = api.post("/contracts", {"terms": terms, "supersedes": supersedes})
    emit(
        row,
        as_json,
        lambda: f"Contract {row['id']} of {row['tenant']} with {row['operator']} is recorded.",
    )


@contract.command("list")
@with_api
def contracts(api: Api, *, as_json: bool) -> None:
    """Show every contract ever recorded, those that were superseded too."""
    rows = api.get("/contracts")
    columns = ("id", "tenant", "operator", "valid from", "valid to", "currency", "superseded by")
    cells = [
        [
            *(row["id"], row["tenant"], row["operator"], row["terms"]["valid_from"]),
            *(row["terms"]["valid_to"], row["terms"]["currency"], row["superseded_by"]),
        ]
        for row in rows
    ]
    emit(rows, as_json, lambda: table("Contracts", columns, cells))


@click.group("ledger")
def ledger() -> None:
    """The double-entry ledger: balances, statements, prepayments, payments, stakes and disputes."""


@ledger.command("balances")
@with_api
def balances(api: Api, *, as_json: bool) -> None:
    """Show the trial balance; debits are positive, and each currency sums to zero."""
    rows = api.get("/ledger/balances")
    cells = [[row["account"], row["amount"], row["currency"]] for row in rows]
    emit(rows, as_json, lambda: table("Trial balance", ("account", "amount", "currency"), cells))


@ledger.command("statement")
@click.argument("account")
@click.argument("currency")
@with_api
def statement(api: Api, *, account: str, currency: str, as_json: bool) -> None:
    """Show an ACCOUNT's postings in one CURRENCY, with the balance after each."""
    rows = api.get("/ledger/statement", account=account, currency=currency)
    columns = ("journal", "kind", "day", "amount", "balance", "memo")
    cells = [[row[name] for name in columns] for row in rows]
    emit(rows, as_json, lambda: table(f"{account} ({currency})", columns, cells))


@ledger.command("post")
@click.argument("operation", type=click.Choice(OPERATIONS))
@click.argument("amount")
@click.argument("currency")
@click.option("--key", required=True, help="Idempotency key, such as the bank's reference.")
@click.option("--tenant")
@click.option("--operator")
@click.option("--memo")
@with_api
def post(api: Api, *, as_json: bool, **body: Any) -> None:
    """Post an OPERATION once: under the same key again it is the same journal."""
    found = api.post("/ledger/operations", body)
    emit(found, as_json, lambda: f"Journal {found['journal']}.")


@ledger.command("mirror")
@_number
@click.option("--note", required=True, help="Why it was wrong.")
@with_api
def mirror(api: Api, *, number: int, note: str, as_json: bool) -> None:
    """Reverse journal NUMBER as a whole, once."""
    found = api.post(f"/ledger/journals/{number}/mirror", {"state": "mirrored", "note": note})
    emit(found, as_json, lambda: f"Journal {found['journal']} reverses it.")
