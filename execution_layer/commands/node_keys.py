"""`counterfoil node roll` and `counterfoil node revoke`: a node's key bundles before their time."""

import asyncio
from pathlib import Path

import click

from shared.runtime.output import emit, json_option

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)


@click.command("revoke")
@click.argument("bundle")
@click.option("--operator-folder", type=_folder, required=True, help="See operator-init.")
@click.option("--audit-target", required=True, help="host:port of the audit server for clients.")
@click.option("--audit-ca", type=_file, required=True, help="Authority of its certificate.")
@click.option("--reason", required=True, help="Why; everybody can read it.")
@json_option
def revoke(
    bundle: str,
    operator_folder: Path,
    audit_target: str,
    audit_ca: Path,
    reason: str,
    as_json: bool,
) -> None:
    """End the key bundle with the entry BUNDLE (64 hexadecimal digits) now.

    The log accepts no receipt for work that begins under it later, and clients seal nothing for it once they have seen
    the revocation with its proof. A running node drops the key bundle within a minute, and makes a new one. If others may
    know its signing key too, stop the node and remove keys/signing.pem before it continues.
    """
    from execution_layer.node.audit_link import AuditLink  # noqa: PLC0415  # --help stays light
    from execution_layer.node.operators import Operator  # noqa: PLC0415
    from execution_layer.node.revoking import Revoked  # noqa: PLC0415
    from execution_layer.node.revoking import revoke as revoke_bundle  # noqa: PLC0415
    from execution_layer.node.settings import AuditTarget  # noqa: PLC0415
    from shared.codec.ids import parse_hex32  # noqa: PLC0415
    from shared.codec.moment import now_ms, to_rfc3339  # noqa: PLC0415

    operator, entry = Operator.load(operator_folder), parse_hex32(bundle, "a key bundle's entry")

    async def main() -> Revoked:
        async with AuditLink(AuditTarget(target=audit_target, ca_file=audit_ca)) as link:
            return await revoke_bundle(operator, entry, link, reason=reason, at=now_ms())

    done = asyncio.run(main())
    facts = {
        "bundle": done.bundle.hex(),
        "revoked_from": to_rfc3339(done.at),
        "revocation": done.entry.hex(),
        "log_index": done.index,
    }
    emit(facts, as_json, lambda: "\n".join(f"{name:<14}{value}" for name, value in facts.items()))


@click.command("roll")
@click.option("--config", type=_file, required=True, help="The node's configuration (node.toml).")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True
)
@json_option
def roll(config: Path, timeout_s: float, as_json: bool) -> None:
    """Make a running node take a new key bundle now, and wait until it is witnessed.

    A node does so by itself every day. No request fails: what is sealed for the old key bundle is served until that one
    ends. To end it as well, because its key may be known to others, use `counterfoil node revoke`.
    """
    from execution_layer.node.rolling import roll_node  # noqa: PLC0415  # --help stays light
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from shared.codec.moment import to_rfc3339  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(NodeSettings, config)
    done = roll_node(settings, timeout_s=timeout_s)
    facts = {
        "node": settings.issuer,
        "bundle": done.new.hex(),
        "replaces": done.old.hex(),
        "served_until": to_rfc3339(done.old_ends),
    }
    emit(facts, as_json, lambda: "\n".join(f"{name:<14}{value}" for name, value in facts.items()))
