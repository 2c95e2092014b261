"""`counterfoil tenant` and `counterfoil token`: who may order, and who may ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit_layer.commands.audit import parties
from audit_layer.commands.options import (
    FILE,
    config_option,
    core_of,
    expires_option,
    key_option,
    rendered,
    utc,
)
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from audit_layer.api.models import ApiTokenRow


@click.group("tenant")
def tenant() -> None:
    """Tenants, whose signed orders the log accepts."""


@tenant.command("add")
@click.argument("name")
@key_option
@config_option
@json_option
def tenant_add(name: str, key: bytes, config: Path, as_json: bool) -> None:
    """Register the ordering key of tenant NAME; adding it again re-enables it."""
    with core_of(config) as core:
        core.trail.add_party(name, "tenant", key)
    emit({"name": name, "key": key}, as_json, lambda: f"Tenant {name} may order.")


@tenant.command("list")
@config_option
@json_option
def tenant_list(config: Path, as_json: bool) -> None:
    """Show all tenants, including disabled ones."""
    rows = parties(config, "tenant")
    emit(
        rows,
        as_json,
        rendered("Tenants", ("name", "key", "disabled_at"), rows, times=("disabled_at",)),
    )


@tenant.command("disable")
@click.argument("name")
@config_option
@json_option
def tenant_disable(name: str, config: Path, as_json: bool) -> None:
    """Accept no more orders from tenant NAME; its earlier orders stay in the log."""
    with core_of(config) as core:
        core.trail.disable_party(name, "tenant")
    emit({"name": name}, as_json, lambda: f"Tenant {name} is disabled.")


@click.group("token")
def token() -> None:
    """Bearer tokens of the query API. Every one expires."""


out_option = click.option(
    "--out", type=FILE, help="Write the token to this file (0600) instead of printing it."
)
id_argument = click.argument("token_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@token.command("create")
@click.option(
    "--role", type=click.Choice(("tenant", "auditor", "finance", "operator")), required=True
)
@click.option("--scope", help="The tenant or operator for which it speaks.")
@click.option("--name", help="A label for people. Default: role and scope.")
@expires_option
@out_option
@config_option
@json_option
def token_create(
    role: str,
    scope: str | None,
    name: str | None,
    life_ms: int,
    out: Path | None,
    config: Path,
    as_json: bool,
) -> None:
    """Create a token. It is shown or written once; only its hash is kept."""
    from audit_layer.api.tokens import Role  # noqa: PLC0415  # --help stays light

    with core_of(config) as core:
        row, secret = core.tokens.create(Role(role), scope, name=name, life_ms=life_ms)
    _hand_out(row, secret, out, as_json)


@token.command("renew")
@id_argument
@expires_option
@out_option
@config_option
@json_option
def token_renew(token_id: int, life_ms: int, out: Path | None, config: Path, as_json: bool) -> None:
    """Create a successor of the token with this ID, with its name, role and scope. The old one is accepted for one more
    hour at most; one that has expired can be renewed too.
    """
    with core_of(config) as core:
        row, secret = core.tokens.renew(token_id, life_ms=life_ms)
    _hand_out(row, secret, out, as_json)


def _hand_out(row: "ApiTokenRow", secret: str, out: Path | None, as_json: bool) -> None:
    """Write a new token to its file, or print it."""
    from shared.runtime.keys import write_private  # noqa: PLC0415  # --help stays light

    data = _token(row)
    if out is not None:
        write_private(out, (secret + "\n").encode())
        data["file"] = str(out.absolute())
    else:
        data["token"] = secret
    until = f"expires on {utc(row.expires)}"
    emit(data, as_json, lambda: f"Written to {out}; {until}" if out else secret)
    if out is None and not as_json:
        click.echo(f"It {until}.", err=True)


@token.command("list")
@config_option
@json_option
def token_list(config: Path, as_json: bool) -> None:
    """Show all tokens, including revoked and expired ones; the tokens themselves are not kept."""
    with core_of(config) as core:
        rows = [_token(row) for row in core.tokens.list()]
    times = ("created", "expires", "revoked")
    columns = ("id", "name", "role", "scope", *times)
    emit(rows, as_json, rendered("Tokens", columns, rows, times=times))


@token.command("revoke")
@id_argument
@config_option
@json_option
def token_revoke(token_id: int, config: Path, as_json: bool) -> None:
    """Revoke the token with this ID."""
    with core_of(config) as core:
        data = _token(core.tokens.revoke(token_id))
    emit(data, as_json, lambda: f"Token {token_id} is revoked.")


def _token(row: "ApiTokenRow") -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "scope": row.scope,
        "created": row.created,
        "expires": row.expires,
        "revoked": row.revoked,
    }
