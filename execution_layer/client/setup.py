"""What `counterfoil client init` writes: a tenant's key and a complete policy, from public facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from execution_layer.client.policy import ClientPolicy
from shared.codec.ids import check_name
from shared.runtime.config import read_json, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import KeyStoreSettings, open_store
from shared.runtime.keys import (
    load_or_create_ed25519,
    private_folder,
    public_bytes,
    write_private,
)

CONFIG = "client.toml"
FACTS = frozenset(
    {
        "attestation",
        "audit_target",
        "ca_file",
        "max_listing_age_s",
        "min_standing",
        "mirrors",
        "model_root",
        "operators",
        "rate_cards",
        "custodians",
        "threshold",
        "log_keys",
        "witnesses",
        "quorum",
    }
)
"""The keys that a file of public facts may have."""


def read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON file of public facts; CONFIGURATION lists the permitted keys."""
    values = read_json(path)
    if not set(values) <= FACTS:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} may only hold these facts: {', '.join(sorted(FACTS))}"
        )
    return values


def pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """Return {name: value} of NAME=VALUE flags."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not value:
            raise CounterfoilError(Code.CONFIGURATION, f"{what} {item[:60]!r} is not NAME=VALUE")
        found[name] = value
    return found


def write_client(
    folder: Path,
    tenant: str,
    facts: Mapping[str, Any],
    key_store: KeyStoreSettings | None = None,
) -> dict[str, Any]:
    """Write the key and the policy; return what others must know. An existing key is kept."""
    check_name(tenant, "the tenant")
    folder, chosen = private_folder(folder.absolute()), key_store or KeyStoreSettings()
    key = load_or_create_ed25519(folder / "tenant.pem", open_store(chosen))
    log = {"keys": facts.get("log_keys", ()), "witnesses": facts.get("witnesses", ())}
    values = {
        "tenant": tenant,
        "tenant_key_file": folder / "tenant.pem",
        "archive": folder / "archive.sqlite",
        "key_store": chosen,
        "operators": {},
        "rate_cards": {},
        "custodians": (),
        **{name: value for name, value in facts.items() if name in ClientPolicy.model_fields},
        "log": {**log, "quorum": facts.get("quorum", 1)},
    }
    try:
        policy = ClientPolicy.model_validate(values, context={"folder": Path.cwd()})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise CounterfoilError(
            Code.CONFIGURATION, f"the facts do not make a policy: {problems}"
        ) from None
    policy.log.policy()
    for custodian in policy.custodians:
        custodian.public_key()
    write_private(folder / CONFIG, to_toml(policy).encode())
    return {
        "config": folder / CONFIG,
        "tenant": tenant,
        "tenant_key": public_bytes(key).hex(),
        "archive": policy.archive,
    }
