"""`counterfoil cost budget`: what a tenant means to spend in a month, what is spent, what the month will come to."""

from pathlib import Path
from typing import Any

import click

from audit_layer.commands.cost_client import Api, shown, with_api
from audit_layer.commands.cost_days import name_of, tenant_option
from audit_layer.commands.cost_tags import centre_of
from audit_layer.commands.options import FILE
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table

CENTRE_DIGITS = 16
"""Of a blinded cost centre in tables."""


@click.group("budget")
def budget() -> None:
    """Budgets of tenants for a calendar month: set, list, check, end."""


_whose = click.option("--tenant", required=True, callback=name_of, help="Whose budget it is.")


@budget.command("set")
@click.argument("name")
@_whose
@click.option("--amount", required=True, help="Exact amount for a month, such as 1500.00.")
@click.option("--currency", required=True, help="Of the bills, such as EUR.")
@click.option("--operator", callback=name_of, help="Only what this operator does.")
@click.option(
    "--thresholds",
    default="50,80,100",
    show_default=True,
    help="Percent at which `check` and alerts speak up.",
)
@click.option("--cost-centre", help="Only orders that show this blinded value (64 hex digits).")
@click.option("--tag-key", type=FILE, help="The tenant's tag key, to name the tags themselves.")
@click.option(
    "--tag", "tags", multiple=True, metavar="NAME=VALUE", help="With --tag-key: the orders' tags, all of them."
)  # fmt: skip
@with_api
def set_budget(
    api: Api,
    *,
    name: str,
    tenant: str,
    amount: str,
    currency: str,
    operator: str | None,
    thresholds: str,
    cost_centre: str | None,
    tag_key: Path | None,
    tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Set the budget NAME of a tenant, in place of the one that had this name. Tags and key stay on this machine."""
    body = {
        "tenant": tenant,
        "amount": amount,
        "currency": currency,
        "operator": operator,
        "thresholds": _percents(thresholds),
        "cost_centre": centre_of(cost_centre, tag_key, tags, tenant),
    }
    row = api.put(f"/budgets/{_path(name)}", body)
    emit(row, as_json, lambda: f"{row['name']}: {_amount(row)} a month for {row['tenant']}.")


@budget.command("end")
@click.argument("name")
@_whose
@with_api
def end(api: Api, *, name: str, tenant: str, as_json: bool) -> None:
    """End the budget NAME; what was recorded stays."""
    row = api.post(f"/budgets/{_path(name)}/end", {"tenant": tenant})
    emit(row, as_json, lambda: f"The budget {row['name']} of {row['tenant']} has ended.")


@budget.command("list")
@tenant_option
@with_api
def listed(api: Api, *, tenant: str | None, as_json: bool) -> None:
    """Show the budgets that apply."""
    rows = api.get("/budgets", tenant=tenant)
    columns = ("tenant", "budget", "amount", "currency", "thresholds", "operator", "cost centre")
    cells = [
        [
            *(row["tenant"], row["name"], row["amount"], row["currency"]),
            ", ".join(f"{percent} %" for percent in row["thresholds"]),
            *(row["operator"], _centre(row)),
        ]
        for row in rows
    ]
    emit(rows, as_json, lambda: table("Budgets", columns, cells) if rows else "There are none.")


@budget.command("check")
@tenant_option
@click.option("--month", help="YYYY-MM [default: the present month].")
@with_api
def check(api: Api, *, tenant: str | None, month: str | None, as_json: bool) -> int:
    """Show what is spent of each budget, and what the month will come to. Exit code 3 when a threshold is reached."""
    rows = api.get("/budget-status", tenant=tenant, month=month)
    emit(rows, as_json, lambda: "\n".join(map(_paragraph, rows)) or "There are no budgets.")
    return 3 if any(row["crossed"] for row in rows) else 0


def _paragraph(row: dict[str, Any]) -> str:
    about = row["budget"]
    lines = [f"{about['name']} of {about['tenant']}, {row['month']}: {_amount(about)}"]
    if about["operator"]:
        lines.append(f"  of what {about['operator']} does")
    if about["cost_centre"]:
        lines.append(f"  of orders with the tags {_centre(about)}")
    lines += [
        f"  spent     {shown(row['spent'])} ({_share(row['spent'], about)})",
        f"  forecast  {shown(row['forecast'])} ({_share(row['forecast'], about)})",
    ]
    if row["crossed"]:
        lines.append(f"  reached   {', '.join(f'{each} %' for each in row['crossed'])}")
    if row["will_cross"]:
        lines.append(f"  will be reached  {', '.join(f'{each} %' for each in row['will_cross'])}")
    lines += [
        f"  not counted: {shown(amount)} {currency}"
        for currency, amount in row["other_currencies"].items()
    ]
    lines.append(f"  {row['assumption']}")
    return "\n".join(lines)


def _share(amount: str, about: dict[str, Any]) -> str:
    from fractions import Fraction  # noqa: PLC0415  # next to its only use

    return f"{shown(str(Fraction(amount) * 100 / Fraction(about['amount'])), 1)} %"


def _amount(row: dict[str, Any]) -> str:
    return f"{row['amount']} {row['currency']}"


def _centre(row: dict[str, Any]) -> str | None:
    centre: str | None = row["cost_centre"]
    return None if centre is None else f"{centre[:CENTRE_DIGITS]}…"


def _percents(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"--thresholds {text[:60]!r} are not percentages",
            remedy="Write them like 50,80,100.",
        ) from error


def _path(name: str) -> str:
    from shared.codec.ids import check_name  # noqa: PLC0415  # --help stays light

    return check_name(name, "the budget")
