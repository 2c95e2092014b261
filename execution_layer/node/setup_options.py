"""A node's settings from the options of `counterfoil node init`; whatever is not given there has its default."""

from pathlib import Path
from typing import Any

from execution_layer.node.operators import Operator
from execution_layer.node.settings import AuditServer, NodeParty, NodeSettings, Quotas
from execution_layer.node.setup import (
    audit_trust,
    chain_of,
    party_files,
    settled,
    stage_of,
    tls_files,
)
from shared.runtime.key_store import KeyStoreSettings


def chosen_settings(
    folder: Path,
    operator: Operator,
    name: str,
    *,
    model: Path,
    rate_card: Path,
    audit_target: str,
    audit_ca: Path | None,
    trust: Path,
    tenants: Path | None,
    local_ca: Path | None,
    hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    stages: tuple[str, ...],
    stages_ca: Path | None,
    layers: str | None,
    callers: tuple[str, ...],
    max_output_tokens: int,
    in_flight_per_tenant: int,
    key_store: KeyStoreSettings | None,
    **others: Any,
) -> NodeSettings:
    """Return the settings; CONFIGURATION says what cannot be used.

    `others` are the options `party_…` and, under their own names, fields of `NodeSettings`. Certificates are issued here if
    a local authority is named.
    """
    tls = tls_files(
        name, folder, local_ca=local_ca, cert=tls_cert, key=tls_key, ca=tls_ca, hosts=hosts
    )
    of_party = {
        option.removeprefix("party_"): others.pop(option)
        for option in list(others)
        if option.startswith("party_")
    }
    return settled(
        NodeSettings,
        operator=operator.name,
        node=name,
        model=model.absolute(),
        keys=folder / "keys",
        operator_key_file=operator.key_file,
        operator_key_store=operator.key_store,
        **({} if key_store is None else {"key_store": key_store}),
        tenants_file=(tenants or folder / "tenants.toml").absolute(),
        rate_card_file=rate_card.absolute(),
        spool=folder / "node.sqlite",
        chain=chain_of(stages, (stages_ca or tls.ca).absolute()),
        stage=stage_of(layers, callers, (stages_ca or tls.ca).absolute()),
        tls=tls,
        party=_party(f"{operator.name}/{name}", folder, local_ca, **of_party),
        audit=settled(
            AuditServer,
            target=audit_target,
            ca_file=(audit_ca or tls.ca).absolute(),
            **audit_trust(trust),
        ),
        quotas=Quotas(
            max_output_tokens=max_output_tokens, in_flight_per_tenant=in_flight_per_tenant
        ),
        **others,
    )


def _party(
    issuer: str,
    folder: Path,
    local_ca: Path | None,
    *,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    address: str,
    endpoint: str | None,
) -> NodeParty:
    """Return what the node shows to other parties, and where these call it."""
    files = party_files(issuer, folder, local_ca=local_ca, cert=cert, key=key, ca=ca)
    return settled(NodeParty, **dict(files), address=address, endpoint=endpoint)
