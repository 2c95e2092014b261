"""`counterfoil node operator-key`: an operator's identity keys."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from execution_layer.commands.identity_keys import (
    end,
    json_option,
    open_log,
    reason_option,
    rotate,
    show,
    timeout_option,
)

if TYPE_CHECKING:
    from shared.parties.key_rotation import Owner
    from shared.runtime.keys import KeyStore

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)
_operator = click.option(
    "--operator-folder", type=_folder, required=True, help="See operator-init."
)
_target = click.option(
    "--audit-target", required=True, help="host:port of the audit server's gRPC."
)
_ca = click.option("--audit-ca", type=_file, required=True, help="Authority of its certificate.")


@click.group("operator-key")
def operator_key() -> None:
    """The operator's identity keys: add another and use it, end one, list them.

    Whoever pinned the first key follows the others in the log by themselves; nothing that a key signed before its end is
    disowned. Keep operator.pem and operator.keys together when you copy them to nodes.
    """


@operator_key.command("rotate")
@_operator
@_target
@_ca
@timeout_option
@json_option
def rotate_key(
    operator_folder: Path, audit_target: str, audit_ca: Path, timeout_s: float, as_json: bool
) -> None:
    """Make a new identity key, add it in the log, and use it from now on.

    The old key signs the new one, stays good and is kept beside it until `end`. Nodes on this folder use the new key for
    their next key bundle. If it was interrupted, run it again.
    """
    rotate(*_owner(operator_folder), open_log(audit_target, audit_ca), timeout_s, as_json)


@operator_key.command("end")
@click.argument("key")
@_operator
@_target
@_ca
@reason_option
@json_option
def end_key(
    key: str,
    operator_folder: Path,
    audit_target: str,
    audit_ca: Path,
    reason: str,
    as_json: bool,
) -> None:
    """End KEY (hex), and remove its private half if it is in the folder.

    From now on nothing that it signs is taken in. What it signed before stays valid: key bundles serve until they expire.
    """
    end(*_owner(operator_folder), open_log(audit_target, audit_ca), key, reason, as_json)


@operator_key.command("list")
@_operator
@_target
@_ca
@json_option
def list_keys(operator_folder: Path, audit_target: str, audit_ca: Path, as_json: bool) -> None:
    """List the operator's keys by the log, and which of them are in the folder."""
    show(*_owner(operator_folder), open_log(audit_target, audit_ca), as_json)


def _owner(folder: Path) -> "tuple[Owner, KeyStore]":
    from execution_layer.node.operators import Operator  # noqa: PLC0415  # --help stays light
    from shared.parties.key_rotation import Owner  # noqa: PLC0415
    from shared.runtime.key_store import open_store  # noqa: PLC0415
    from shared.statements.identities import Holder  # noqa: PLC0415

    operator = Operator.load(folder.absolute())
    owner = Owner(Holder.OPERATOR, operator.name, operator.key_file)
    return owner, open_store(operator.key_store)
