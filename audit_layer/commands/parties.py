"""`counterfoil audit witness` and `counterfoil audit custodian`: separate parties, each with `init` and `serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option, table

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)


def _common(command: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--folder", type=_folder, required=True, help="Keys, state and configuration."
            ),
            click.option("--name", required=True, help="Name of this party."),
        )
    ):
        command = option(command)
    return command


def _trust(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--config-folder", "folder", type=_folder, required=True),
            click.option("--name", required=True),
            click.option("--address", required=True, help="host:port to serve on."),
            click.option("--cert", type=_file, required=True),
            click.option("--key", type=_file, required=True),
            click.option("--ca", type=_file, required=True),
            click.option(
                "--trust", type=_file, required=True, help="JSON: whom this party believes."
            ),
            click.option(
                "--party-ca",
                type=_file,
                help="Authorities of the certificates that workers and the audit server show (PEM).",
            ),
            click.option(
                "--behind-proxy",
                is_flag=True,
                help="Instead: a proxy in front, past which nobody comes, checks these certificates.",
            ),
        )
    ):
        command = option(command)
    return command


def _config(
    folder: Path,
    name: str,
    address: str,
    cert: Path,
    key: Path,
    ca: Path,
    trust: Path,
    party_ca: Path | None,
    behind_proxy: bool,
    key_store: "KeyStoreSettings | None",
) -> dict[str, Any]:
    """Return the values that both parties' settings share. `trust` holds `log`, `authority` and what custodians need."""
    from shared.runtime.config import read_json  # noqa: PLC0415

    if (party_ca is None) != behind_proxy:
        raise click.UsageError("give either --party-ca FILE or --behind-proxy")
    told = read_json(trust)
    checked = {"behind_proxy": True} if party_ca is None else {"ca": party_ca.absolute()}
    return {
        "name": name,
        "address": address,
        "keys_folder": (folder / "keys").absolute(),
        "state_file": (folder / "state.sqlite").absolute(),
        "authority": told.get("authority"),
        "tls": {"cert": cert.absolute(), "key": key.absolute(), "ca": ca.absolute()},
        "party": checked,
        "log": told.get("log"),
        **({} if key_store is None else {"key_store": key_store}),
        "told": told,
    }


@click.group("witness")
def witness() -> None:
    """Cosign checkpoints of one log (C2SP tlog-witness), and take part in the beacon."""


@witness.command("keys")
@_common
@key_store_options
def witness_keys(folder: Path, name: str, key_store: "KeyStoreSettings | None") -> None:
    """Create the witness's keys and print what others must know about it as JSON."""
    from audit_layer.wiring.party_keys import witness_identity  # noqa: PLC0415
    from shared.runtime.key_store import store_of  # noqa: PLC0415

    emit(witness_identity(folder / "keys", name, store_of(key_store)), True, str)


@witness.command("init")
@_trust
@key_store_options
def witness_init(**options: Any) -> None:
    """Write witness.toml."""
    from audit_layer.witness.settings import WitnessSettings  # noqa: PLC0415

    _write(WitnessSettings, "witness.toml", options, ())


@witness.command("serve")
@click.option("--config", type=_file, required=True)
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path))
def witness_serve(config: Path, ready_file: Path | None) -> int:
    """Serve until told to stop."""
    from audit_layer.wiring.parties import serve_witness  # noqa: PLC0415
    from audit_layer.witness.settings import WitnessSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415
    from shared.runtime.readiness import run_service  # noqa: PLC0415

    settings = load(WitnessSettings, config)
    return run_service(lambda stop: serve_witness(settings, ready_file, stop))


@click.group("custodian")
def custodian() -> None:
    """Hold escrow shares; release them for draws that can be recomputed."""


@custodian.command("keys")
@_common
@key_store_options
def custodian_keys(folder: Path, name: str, key_store: "KeyStoreSettings | None") -> None:
    """Create the custodian's keys and print what others must know about it as JSON."""
    from audit_layer.wiring.party_keys import custodian_identity  # noqa: PLC0415
    from shared.runtime.key_store import store_of  # noqa: PLC0415

    emit(custodian_identity(folder / "keys", name, store_of(key_store)), True, str)


@custodian.command("init")
@_trust
@key_store_options
def custodian_init(**options: Any) -> None:
    """Write custodian.toml."""
    from audit_layer.custodian.settings import CustodianSettings  # noqa: PLC0415

    told = ("workers", "limits", "parties", "operators", "tenants")
    _write(CustodianSettings, "custodian.toml", options, told)


@custodian.command("serve")
@click.option("--config", type=_file, required=True)
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path))
def custodian_serve(config: Path, ready_file: Path | None) -> int:
    """Serve until told to stop."""
    from audit_layer.custodian.settings import CustodianSettings  # noqa: PLC0415
    from audit_layer.wiring.parties import serve_custodian  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415
    from shared.runtime.readiness import run_service  # noqa: PLC0415

    settings = load(CustodianSettings, config)
    return run_service(lambda stop: serve_custodian(settings, ready_file, stop))


@custodian.command("reports")
@click.option("--config", type=_file, required=True)
@json_option
def custodian_reports(config: Path, as_json: bool) -> None:
    """Show what was refused by the custodian's own rules, and how much of its daily limits is used.

    JSON has the statements behind each refusal, with their proofs, in hexadecimal, and the escrow reports that it signed.
    """
    from audit_layer.custodian.settings import CustodianSettings  # noqa: PLC0415
    from audit_layer.custodian.store import read_escrow_reports, read_reports  # noqa: PLC0415
    from shared.codec.moment import now_ms, to_rfc3339  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(CustodianSettings, config)
    reports, released = read_reports(settings.state_file, now_ms())
    escrow = read_escrow_reports(settings.state_file)
    total = sum(released.values())

    most = settings.limits.max_releases_per_day

    def shown() -> Any:
        rows = [
            (
                to_rfc3339(report.at)[:19] + "Z",
                report.rule.value,
                "" if report.epoch is None else report.epoch,
                report.detail,
            )
            for report in reports
        ]
        columns = ("at", "rule", "epoch", "what")
        return (
            table("Refused by this custodian's rules", columns, rows) if rows else "None refused."
        )

    by_rule = {kind.value: count for kind, count in released.items()}
    facts = {
        "reports": reports,
        "escrow_reports": escrow,
        "released": by_rule,
        "limits": settings.limits.model_dump(),
    }
    emit(facts, as_json, shown)
    if not as_json:
        click.echo(f"{total} of {most} releases in the last 24 hours.")
        click.echo(f"{len(escrow)} escrow reports about wraps that did not fit.")


@custodian.command("releases")
@click.option("--config", type=_file, required=True)
@json_option
def custodian_releases(config: Path, as_json: bool) -> None:
    """Show the custodian's own log of releases: what it released, why, and whether its share was handed out.

    A share is handed out once its release was shown to be in the log, which is where the index comes from.
    """
    from audit_layer.custodian.settings import CustodianSettings  # noqa: PLC0415
    from audit_layer.custodian.store import Logged, read_releases  # noqa: PLC0415
    from shared.codec.moment import to_rfc3339  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415
    from shared.statements.cose import read_as  # noqa: PLC0415
    from shared.statements.disclosures import DisclosureRelease  # noqa: PLC0415

    rows = read_releases(load(CustodianSettings, config).state_file)

    def receipt(row: Logged) -> str:
        return read_as(DisclosureRelease, row.statement).receipt.hex()

    def at(moment: int | None) -> str:
        return "not yet" if moment is None else to_rfc3339(moment)[:19] + "Z"

    def shown() -> Any:
        lines = [
            (
                at(row.released_at),
                receipt(row)[:16],
                row.tenant or "",
                row.request.hex()[:16],
                row.reason.value if row.reason else "",
                "not shown" if row.log_index is None else row.log_index,
                at(row.handed_out_at),
            )
            for row in rows
        ]
        columns = ("released", "receipt", "tenant", "request", "reason", "in the log", "handed out")
        return (
            table("Releases of this custodian", columns, lines) if rows else "Nothing was released."
        )

    facts = [
        {
            "receipt": receipt(row),
            "tenant": row.tenant,
            "request": row.request.hex(),
            "reason": row.reason,
            "released_at": row.released_at,
            "log_index": row.log_index,
            "handed_out_at": row.handed_out_at,
            "release": row.statement.hex(),
        }
        for row in rows
    ]
    emit(facts, as_json, shown)


def _write(kind: Any, file: str, options: dict[str, Any], more: tuple[str, ...]) -> None:
    from shared.runtime.config import checked, to_toml  # noqa: PLC0415
    from shared.runtime.keys import write_atomic  # noqa: PLC0415

    values = _config(**options)
    told = values.pop("told")
    given = {**values, **{name: told[name] for name in more if name in told}}
    settings = checked(kind, given, str(options["trust"]))
    path = options["folder"] / file
    write_atomic(path, to_toml(settings).encode())
    emit({"config": str(path.absolute())}, True, str)
