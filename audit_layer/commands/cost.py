"""`counterfoil cost`: what is payable, billing periods, contracts, invoices, exports, for finance teams.

Everything goes through the query API with a token of role finance; none of it needs the database.
"""

from pathlib import Path
from typing import Any

import click

from audit_layer.commands.cost_budget import budget
from audit_layer.commands.cost_client import Api, with_api
from audit_layer.commands.cost_days import tenant_option
from audit_layer.commands.cost_export import export
from audit_layer.commands.cost_invoices import invoice, reconcile
from audit_layer.commands.cost_keeping import bill, contract, ledger, period
from audit_layer.commands.cost_plausibility import plausibility
from audit_layer.commands.cost_proofs import prove
from audit_layer.commands.cost_teams import teams
from audit_layer.commands.focus_check import check
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table


@click.group("cost")
def cost() -> None:
    """What is payable and why; billing periods, contracts, invoices, the ledger, exports."""


for _command in (
    bill,
    budget,
    check,
    contract,
    export,
    invoice,
    ledger,
    period,
    plausibility,
    prove,
    reconcile,
    teams,
):
    cost.add_command(_command)


@cost.command("rate")
@with_api
def rate(api: Api, *, as_json: bool) -> None:
    """Rate and post every receipt that the books have not processed, and take every verdict into account."""
    found = api.post("/rate")
    emit(found, as_json, lambda: f"{found['rated_receipts']} receipts rated and posted.")


@cost.command("fsck")
@with_api
def fsck(api: Api, *, as_json: bool) -> int:
    """Recompute the books from receipts, rate cards and verdicts. Exit code 3 when something differs."""
    findings = api.get("/fsck")["findings"]
    emit(
        {"findings": findings},
        as_json,
        lambda: "\n".join(findings) or "The books agree with receipts and verdicts.",
    )
    return 3 if findings else 0


@cost.command("report")
@tenant_option
@with_api
def report(api: Api, *, tenant: str | None, as_json: bool) -> None:
    """Show by operator and node what is payable, what a verdict holds up, and what is refused."""
    rows = api.get("/totals", tenant=tenant)
    columns = (
        *("operator", "node", "currency", "receipts", "tokens", "amount", "held"),
        "refused",
    )
    emit(
        rows,
        as_json,
        lambda: (
            table("Booked", columns, [[row[name] for name in columns] for row in rows])
            if rows
            else "Nothing is booked yet."
        ),
    )


@cost.command("unpaid")
@tenant_option
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many."
)
@with_api
def unpaid(api: Api, *, tenant: str | None, limit: int, as_json: bool) -> None:
    """List the latest receipts that are not payable, or not yet, each with the statement that says so."""
    rows = api.get("/unpaid", tenant=tenant, limit=limit)
    emit(
        rows,
        as_json,
        lambda: "\n".join(map(_paragraph, rows)) or "Everything that was rated is payable.",
    )


def _paragraph(row: dict[str, Any]) -> str:
    amount = "never rated" if row["amount"] is None else f"{row['amount']} {row['currency']}"
    lines = [
        (
            f"{row['log_index']}  {row['operator']}/{row['node']} for {row['tenant']}, request {row['number']}, "
            f"attempt {row['attempt']}"
        ),
        f"  {row['state']} ({amount}): {row['reason']}",
        f"  receipt  {row['receipt']}",
    ]
    if row["because"] is not None:
        lines.append(f"  because  {row['because']}")
    return "\n".join(lines)


@click.command("name")
@click.argument("name")
@click.argument("root")
@with_api
def name_model(api: Api, *, name: str, root: str, as_json: bool) -> None:
    """Give the model with this ROOT (hexadecimal, or a model's folder) a NAME for invoices and reports."""
    folder = Path(root)
    if folder.is_dir():
        from shared.model.root import model_root  # noqa: PLC0415  # --help stays light

        root = model_root(folder).hex()
    elif len(root) != 64:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{root} is neither a model's folder nor a model root of 64 hexadecimal digits",
            remedy="`counterfoil model show FOLDER` prints a folder's root.",
        )
    found = api.put(f"/models/{name}", {"model_root": root.lower()})
    emit(found, as_json, lambda: f"{name} is model {root[:16]}…")


@click.command("names")
@with_api
def model_names(api: Api, *, as_json: bool) -> None:
    """Show the models that have names."""
    found = api.get("/models")
    emit(found, as_json, lambda: table("Models", ("name", "model root"), sorted(found.items())))
