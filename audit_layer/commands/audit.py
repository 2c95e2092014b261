"""`counterfoil audit`: set up and run the audit server, register parties, ask the query API."""

import json
from pathlib import Path
from typing import Any

import click

from audit_layer.commands.custodians import custodians
from audit_layer.commands.disclosures import disclosures
from audit_layer.commands.incentives import incentives
from audit_layer.commands.options import (
    FILE,
    config_option,
    core_of,
    key_option,
    rendered,
    settings_of,
)
from audit_layer.commands.query import QUERIES
from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option, to_json

ROLES = ("operator", "tenant", "authority", "worker", "custodian", "witness")


@click.group("audit")
def audit() -> None:
    """Set up and run the audit server; register parties; ask the query API."""


@audit.command("init")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where audit.toml, keys, the published log and the second place go.",
)
@click.option("--origin", required=True, help="The log's permanent name, such as example.org/log.")
@click.option("--dsn-file", type=FILE, required=True, help="DSN file of the service role `server`.")
@click.option("--grpc", "grpc_address", required=True, help="host:port for clients.")
@click.option("--http", "http_address", required=True, help="host:port for auditors.")
@click.option("--cert", type=FILE, required=True, help="TLS certificate chain (PEM).")
@click.option("--key", type=FILE, required=True, help="Its private key (PEM).")
@click.option(
    "--ca", type=FILE, required=True, help="Certificate authority that clients trust (PEM)."
)
@click.option(
    "--party-grpc",
    default="127.0.0.1:0",
    show_default=True,
    help="host:port where nodes and workers call with their certificates.",
)
@click.option(
    "--party-cert",
    type=FILE,
    required=True,
    help="Certificate that names this server to other parties (`audit party certificate`).",
)
@click.option("--party-key", type=FILE, required=True, help="Its private key (PEM).")
@click.option(
    "--party-ca",
    type=FILE,
    required=True,
    help="Authorities of the certificates of nodes and workers (PEM).",
)
@click.option("--publish-interval-ms", type=click.IntRange(10, 3_600_000))
@click.option(
    "--numeric-profile",
    "numeric_profiles",
    multiple=True,
    metavar="HEX",
    help="A numeric profile that this log's auditors compute, as `counterfoil model profile` prints it on their"
    " machines. Nodes with any other profile are refused. May be repeated.",
)
@click.option("--reflection/--no-reflection", default=None, help="gRPC reflection, for tools.")
@key_store_options
def init(folder: Path, **given: Any) -> None:
    """Create keys and a configuration, and print as JSON what others must know about this log.

    When run again, it keeps the keys and witnesses and rewrites the addresses.
    """
    from audit_layer.wiring import audit_settings as files  # noqa: PLC0415
    from audit_layer.wiring import log_keys  # noqa: PLC0415  # --help stays light
    from shared.runtime.config import checked  # noqa: PLC0415
    from shared.runtime.key_store import open_store  # noqa: PLC0415
    from shared.runtime.keys import private_folder, public_bytes  # noqa: PLC0415
    from shared.runtime.party import PartyListener  # noqa: PLC0415
    from shared.runtime.tls import TlsFiles  # noqa: PLC0415

    private_folder(folder)
    config = folder.absolute() / files.FILE_NAME
    kept: dict[str, Any] = {}
    if config.exists():
        kept = dict(files.load_as_written(config))
    changes = {
        "origin": given["origin"],
        "database_dsn_file": given["dsn_file"].absolute(),
        "grpc_address": given["grpc_address"],
        "http_address": given["http_address"],
        "publish_interval_ms": given["publish_interval_ms"],
        "reflection": given["reflection"],
        "numeric_profiles": given["numeric_profiles"] or None,
        "key_store": given["key_store"],
        "tls": TlsFiles(**{name: given[name].absolute() for name in ("cert", "key", "ca")}),
        "party": PartyListener(
            address=given["party_grpc"],
            **{name: given[f"party_{name}"].absolute() for name in ("cert", "key", "ca")},
        ),
    }
    wanted = {**kept, **{name: value for name, value in changes.items() if value is not None}}
    settings = checked(files.AuditSettings, wanted, "the given configuration")
    keys = config.parent / settings.keys_folder
    store = open_store(settings.key_store)
    signers = log_keys.create_keys(keys, settings.origin, store)
    files.save(settings, config)
    known = {
        "origin": settings.origin,
        "log_vkeys": [signer.verifier.vkey() for signer in signers],
        "cose_key": public_bytes(log_keys.load_cose_key(keys, store)).hex(),
        "config": str(config),
    }
    click.echo(to_json(known))


@audit.command("trust")
@config_option
@click.option("--name", required=True, help="The name that the witness's keys carry.")
@click.option("--url", required=True, help="https://host:port of the witness.")
@click.option("--vkey", "vkeys", multiple=True, required=True, help="One for each of its keys.")
@click.option(
    "--ca",
    type=FILE,
    help="Certificate authority that issued its certificate. Default: the server's own.",
)
@click.option("--quorum", type=click.IntRange(1, 64), help="How many witnesses must cosign.")
@json_option
def trust(
    config: Path,
    name: str,
    url: str,
    vkeys: tuple[str, ...],
    ca: Path | None,
    quorum: int | None,
    as_json: bool,
) -> None:
    """Ask a witness for cosignatures from the next start on; one of the same name is replaced."""
    from audit_layer.wiring import audit_settings as files  # noqa: PLC0415  # --help stays light
    from shared.runtime.config import checked  # noqa: PLC0415
    from shared.translog.notes import parse_vkey  # noqa: PLC0415

    for vkey in vkeys:
        parse_vkey(vkey)
    settings = files.load_as_written(config)
    witness = {"name": name, "url": url, "vkeys": vkeys, "ca": ca.absolute() if ca else None}
    others = [known for known in settings.witnesses if known.name != name]
    wanted = {
        **dict(settings),
        "witnesses": [*map(dict, others), witness],
        "quorum": quorum or settings.quorum,
    }
    changed = checked(files.AuditSettings, wanted, "the given configuration")
    files.save(changed, config)
    names = [known.name for known in changed.witnesses]
    emit(
        {"witnesses": names, "quorum": changed.quorum},
        as_json,
        lambda: f"{changed.quorum} of these must cosign: {', '.join(names)}",
    )


@audit.command("serve")
@config_option
@click.option("--ready-file", type=FILE, help="Written once calls are answered.")
def serve(config: Path, ready_file: Path | None) -> int:
    """Run the audit server: gRPC intake, log and directory; HTTPS query API and published log."""
    from audit_layer.wiring.audit_server import serve_audit  # noqa: PLC0415  # --help stays light
    from shared.runtime.readiness import run_service  # noqa: PLC0415

    settings = settings_of(config)
    return run_service(lambda stop: serve_audit(settings, ready_file, stop))


@audit.command("status")
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show the figures of the log and the trail, from the database and the published files."""
    from audit_layer.api.parts import status_of  # noqa: PLC0415
    from audit_layer.log.proof_service import ProofService  # noqa: PLC0415
    from audit_layer.wiring.audit_server import published  # noqa: PLC0415
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415  # --help stays light

    settings = settings_of(config)
    with core_of(config) as core:
        proofs = (
            ProofService(core.engine, published(settings), log_policy(settings))
            if settings.witnesses
            else None
        )
        found = status_of(settings.origin, core.engine, core.trail, proofs).model_dump()
    rows = [
        {"": "entries sequenced", "count": found["size"]},
        {"": "entries witnessed", "count": found["witnessed_size"]},
        *({"": f"  {kind}", "count": count} for kind, count in found["statements"].items()),
        {"": "findings", "count": found["findings"]},
    ]
    emit(found, as_json, rendered(found["origin"], ("", "count"), rows))


@audit.group("party")
def party() -> None:
    """Keys that the audit layer believes, and for what."""


@party.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@key_option
@config_option
@json_option
def party_add(name: str, role: str, key: bytes, config: Path, as_json: bool) -> None:
    """Believe the key of NAME in a role; adding it again re-enables it."""
    with core_of(config) as core:
        core.trail.add_party(name, role, key)
    emit(
        {"name": name, "role": role, "key": key},
        as_json,
        lambda: f"{name} is registered as {role}.",
    )


@party.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
@json_option
def party_import(file: Path, config: Path, as_json: bool) -> None:
    """Believe every key of FILE, a JSON list of objects with `name`, `role` and `key` (hex)."""
    members = _members(file)
    with core_of(config) as core:
        for name, role, key in members:
            core.trail.add_party(name, role, key)
    emit({"added": len(members)}, as_json, lambda: f"{len(members)} parties are registered.")


@party.command("list")
@click.option("--role", type=click.Choice(ROLES), help="Only this role.")
@config_option
@json_option
def party_list(role: str | None, config: Path, as_json: bool) -> None:
    """Show all parties, including disabled ones."""
    rows = parties(config, role)
    columns = ("name", "role", "key", "disabled_at")
    emit(rows, as_json, rendered("Parties", columns, rows, times=("disabled_at",)))


@party.command("certificate")
@click.option(
    "--local-ca",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of a local authority; it is made if there is none.",
)
@click.option(
    "--role",
    type=click.Choice(["node", "worker", "custodian", "witness", "audit"]),
    required=True,
)
@click.option("--name", required=True, help="The party's name; a node's is OPERATOR/NODE.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where party.pem and party.key go.",
)
@json_option
def party_certificate(local_ca: Path, role: str, name: str, folder: Path, as_json: bool) -> None:
    """Issue the certificate that names a party to others. One that is still good is kept; run it again from a month before
    its end.
    """
    from shared.runtime.party import Party, PartyRole  # noqa: PLC0415  # --help stays light
    from shared.runtime.tls import LocalCA  # noqa: PLC0415

    party = Party(PartyRole(role), name)
    files = LocalCA.load_or_create(local_ca).issue_party(party, folder=folder)
    facts = {field: str(path.absolute()) for field, path in files}
    emit({"party": party.uri, **facts}, as_json, lambda: f"{party.uri}: {files.cert}")


@party.command("disable")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@config_option
@json_option
def party_disable(name: str, role: str, config: Path, as_json: bool) -> None:
    """Stop believing the keys of NAME in a role; what it signed before stays in the log."""
    with core_of(config) as core:
        core.trail.disable_party(name, role)
    emit(
        {"name": name, "role": role}, as_json, lambda: f"{name} is no longer registered as {role}."
    )


def _members(file: Path) -> list[tuple[str, str, bytes]]:
    """Return (name, role, key) of every party in a file; INVALID_ARGUMENT names the file."""
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415

    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(listed, list):
            raise TypeError("not a list")  # noqa: TRY301  # reported with the others below
        return [
            (str(item["name"]), str(item["role"]), parse_hex32(str(item["key"]), "a key"))
            for item in listed
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{file} is not a UTF-8 JSON list of objects with name, role and key",
            remedy="Write one object for each party, as `audit party list --json` prints them.",
        ) from error


def parties(config: Path, role: str | None) -> list[dict[str, Any]]:
    """Return the parties of a role, or of all roles for None."""
    with core_of(config) as core:
        found = core.trail.parties()
    return [
        {
            "name": row.name,
            "role": row.role,
            "key": row.public_key.hex(),
            "added_at": row.added_at,
            "disabled_at": row.disabled_at,
        }
        for row in found
        if role is None or row.role == role
    ]


for query in (*QUERIES, disclosures, custodians, incentives):
    audit.add_command(query)
