"""`counterfoil cost`: what is payable, billing periods, contracts, invoices, exports, for finance teams.

Everything goes through the query API with a token of role finance; none of it needs the database.
"""

import base64
import json
from calendar import monthrange
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click

from audit_layer.commands.cost_client import Api, with_api
from audit_layer.commands.cost_invoices import invoice, reconcile
from audit_layer.commands.cost_keeping import bill, contract, ledger, period
from audit_layer.commands.cost_proofs import prove
from audit_layer.commands.focus_check import check
from audit_layer.commands.options import FILE
from shared.codec.ids import check_name
from shared.codec.moment import day_of, now_ms, parse_day
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table

FORMATS = (
    *("focus-1.2-csv", "focus-1.2-parquet", "focus-1.4-csv", "focus-1.4-parquet"),
    *("focus-1.4-billing-period-csv", "focus-1.4-billing-period-parquet", "xlsx", "gl-csv"),
    *("focus-1.4-invoice-detail-csv", "focus-1.4-invoice-detail-parquet"),
)


def _day(_context: click.Context, parameter: click.Parameter, value: str | None) -> date | None:
    return None if value is None else parse_day(value, parameter.opts[0])


def _name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else check_name(value, parameter.opts[0])


from_option = click.option(
    "--from",
    "start",
    callback=_day,
    help="First day, YYYY-MM-DD [default: the first of this month].",
)
to_option = click.option(
    "--to",
    "end",
    callback=_day,
    help="Day after the last, YYYY-MM-DD [default: the end of that month].",
)
zone_option = click.option(
    "--time-zone",
    "zone_name",
    default="UTC",
    show_default=True,
    help="Time zone of the days, such as Europe/Berlin.",
)
tenant_option = click.option("--tenant", callback=_name, help="Only this tenant.")
operator_option = click.option("--operator", callback=_name, help="Only this operator.")


def _days(start: date | None, end: date | None, zone_name: str) -> tuple[date, date]:
    """Return the days [start, end): this month by default; a start without an end runs to the end of its month."""
    first = start or day_of(now_ms(), zone_name).replace(day=1)
    last = first.replace(day=monthrange(first.year, first.month)[1])
    if end is None and last < date.max:
        return first, last + timedelta(days=1)
    if end is None or end <= first:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the period begins on {first} and ends before {end or 'the year 10000'}",
            remedy="--to is the day after the last, and --from lies before it.",
        )
    return first, end


@click.group("cost")
def cost() -> None:
    """What is payable and why; billing periods, contracts, invoices, the ledger, exports."""


for _command in (bill, check, contract, invoice, ledger, period, prove, reconcile):
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


@cost.command("export")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write."
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default="focus-1.2-csv",
    show_default=True,
    help="What is written; never guessed from the file's name.",
)
@click.option("--period", type=click.IntRange(1), help="A billing period, instead of days.")
@click.option(
    "--invoice",
    type=click.IntRange(1),
    help="A stored invoice, instead of days, for focus-1.4-invoice-detail.",
)
@click.option("--payment-terms", help="What that invoice says about payment, such as 'Net 30'.")
@tenant_option
@operator_option
@from_option
@to_option
@zone_option
@click.option("--accounts", type=FILE, help="CSV from our accounts to yours, for gl-csv.")
@click.option("--sign-key", type=FILE, help="Ed25519 key (PEM) to sign a manifest beside the file.")
@click.option("--allow-empty", is_flag=True, help="Write a file also where nothing was charged.")
@with_api
def export(
    api: Api,
    *,
    out: Path,
    format_name: str,
    period: int | None,
    invoice: int | None,
    payment_terms: str | None,
    tenant: str | None,
    operator: str | None,
    start: date | None,
    end: date | None,
    zone_name: str,
    accounts: Path | None,
    sign_key: Path | None,
    allow_empty: bool,
    as_json: bool,
) -> None:
    """Write a billing period, or the charges of some days (default: this month), in a named format.

    An existing file is replaced as a whole, once the new one is complete. Where nothing was charged, nothing is written and
    the exit code is 4, unless --allow-empty is given.
    """
    from audit_layer.costs.exports.formats import check_extension, format_named  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import write_result  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415

    check_extension(out, format_named(format_name))
    first, after = _days(start, end, zone_name)
    days = (
        {}
        if period or invoice
        else {"start": str(first), "end": str(after), "time_zone": zone_name}
    )
    answer = api.answer(
        "GET",
        "/export",
        {
            "format": format_name,
            "period": period,
            "invoice": invoice,
            "payment_terms": payment_terms,
            "tenant": tenant,
            "operator": operator,
            "accounts": None if accounts is None else read_bounded(accounts, 16_384).decode(),
            **days,
        },
    )
    manifest = json.loads(base64.b64decode(answer.headers["counterfoil-manifest"]))
    what = f"billing period {period}" if period else f"{first} to {after}"
    what = f"invoice {invoice}" if invoice else what
    if not manifest["rows"] and not allow_empty:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"nothing was charged in {what}; no file was written",
            remedy="`counterfoil cost rate` books what is in the log; `counterfoil cost report` shows what is booked.",
        )
    write_result(out, answer.content)
    if sign_key is not None:
        _sign(out, manifest, sign_key)
    data = {
        "file": str(out),
        "rows": manifest["rows"],
        "format": format_name,
        "sha256": manifest["sha256"],
        "totals": manifest["totals"],
    }
    emit(data, as_json, lambda: f"{manifest['rows']} rows of {what} written to {out}")


def _sign(out: Path, told: dict[str, Any], sign_key: Path) -> None:
    """Check what was said about the file against the file, and sign it."""
    from dataclasses import fields  # noqa: PLC0415  # --help stays light
    from hashlib import sha256  # noqa: PLC0415

    from audit_layer.costs.exports.manifest import Manifest, beside, signed  # noqa: PLC0415
    from shared.runtime.keys import load_ed25519, write_result  # noqa: PLC0415

    values = {field.name: told[field.name] for field in fields(Manifest)} | {"file": out.name}
    manifest = Manifest(**values)
    if sha256(out.read_bytes()).hexdigest() != manifest.sha256:
        raise CounterfoilError(Code.CONFLICT, "the file is not what the server says that it wrote")
    write_result(beside(out), signed(manifest, load_ed25519(sign_key)))


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
