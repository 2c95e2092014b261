"""`counterfoil client key`: a tenant's keys."""

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
from execution_layer.commands.options import config_option

if TYPE_CHECKING:
    from execution_layer.client.policy import ClientPolicy
    from shared.parties.identity_log import IdentityLog
    from shared.parties.key_rotation import Owner
    from shared.runtime.keys import KeyStore


@click.group("key")
def key() -> None:
    """The tenant's keys: add another and use it, end one, list them.

    Nodes and auditors follow them in the log by themselves. What a key ordered before its end is still answered for and paid.
    """


@key.command("rotate")
@config_option
@timeout_option
@json_option
def rotate_key(config: Path, timeout_s: float, as_json: bool) -> None:
    """Make a new key, add it in the log, and sign orders with it from now on.

    The old key signs the new one, stays good and is kept beside it until `end`, so programs that are running go on; they use
    the new key when they are started again. If it was interrupted, run it again.
    """
    policy = _policy(config)
    rotate(*_owner(policy), _log(policy), timeout_s, as_json)


@key.command("end")
@click.argument("ended", metavar="KEY")
@config_option
@reason_option
@json_option
def end_key(ended: str, config: Path, reason: str, as_json: bool) -> None:
    """End KEY (hex), for instance that of a lost machine, and remove its private half if it is here.

    Nodes refuse what it signs from then on, within a minute; the log refuses receipts for work on its orders that began
    later than five minutes after. Programs that still use it must be started again first.
    """
    policy = _policy(config)
    end(*_owner(policy), _log(policy), ended, reason, as_json)


@key.command("list")
@config_option
@json_option
def list_keys(config: Path, as_json: bool) -> None:
    """List the tenant's keys by the log, and which of them this client has or had."""
    policy = _policy(config)
    show(*_owner(policy), _log(policy), as_json)


def _policy(config: Path) -> "ClientPolicy":
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # --help stays light

    return ClientPolicy.load(config)


def _log(policy: "ClientPolicy") -> "IdentityLog":
    return open_log(policy.audit_target, policy.ca_file)


def _owner(policy: "ClientPolicy") -> "tuple[Owner, KeyStore]":
    from shared.parties.key_rotation import Owner  # noqa: PLC0415  # --help stays light
    from shared.runtime.key_store import open_store  # noqa: PLC0415
    from shared.statements.identities import Holder  # noqa: PLC0415

    owner = Owner(Holder.TENANT, policy.tenant, policy.tenant_key_file)
    return owner, open_store(policy.key_store)
