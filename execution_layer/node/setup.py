"""What `counterfoil node init` writes, and the tenants file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from execution_layer.node.identity import KeyRing
from execution_layer.node.operators import Operator
from execution_layer.node.settings import NodeSettings, TenantsFile
from execution_layer.pipeline.settings import Chain, ChainStage, StageWork
from shared.codec.ids import check_name, parse_hex32
from shared.parties.key_rotation import known_keys
from shared.runtime.config import Settings, load, read_json, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import open_store
from shared.runtime.keys import private_folder, public_bytes, write_atomic, write_private
from shared.runtime.party import Party, PartyFiles, PartyRole, check_party
from shared.runtime.tls import LocalCA, TlsFiles
from shared.statements.cose import check_signing_key

CONFIG = "node.toml"
S = TypeVar("S", bound=Settings)


def write_node(folder: Path, operator: Operator, settings: NodeSettings) -> dict[str, Any]:
    """Write the configuration, create keys and an empty tenants file; return what others must know."""
    private_folder(folder)
    earlier = known_keys(operator.key_file, operator.key)
    ring = KeyRing(
        settings.keys, operator.key, earlier=earlier, store=open_store(settings.key_store)
    )
    if not settings.tenants_file.exists():
        write_atomic(settings.tenants_file, to_toml(TenantsFile()).encode())
    write_private(folder / CONFIG, to_toml(settings).encode())
    return {
        "config": folder / CONFIG,
        "operator": operator.name,
        "operator_key": operator.public_hex,
        "node": settings.node,
        "issuer": settings.issuer,
        "signing_key": public_bytes(ring.signing_key).hex(),
        "tenants_file": settings.tenants_file,
        "spool": settings.spool,
    }


def settled(kind: type[S], **values: Any) -> S:
    """Return settings built from flags; CONFIGURATION lists all their problems."""
    try:
        return kind(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise CounterfoilError(
            Code.CONFIGURATION, f"the options cannot be used: {problems}"
        ) from None


def audit_trust(path: Path) -> dict[str, Any]:
    """Return whom a node trusts in audits, from a JSON file `{log, authority, workers}`; CONFIGURATION for anything else."""
    values = read_json(path)
    if set(values) != {"log", "authority", "workers"}:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} must hold log, authority and workers, and nothing else"
        )
    return {
        "authority_keys": (values["authority"],),
        "log": values["log"],
        "workers": values["workers"],
    }


def chain_of(stages: Sequence[str], ca: Path) -> Chain | None:
    """Return the chain of stages given as [NAME@]ADDRESS[,SPARE…]=FIRST:LAST, if there are any; CONFIGURATION for anything else."""
    if not stages:
        return None
    return settled(Chain, stages=tuple(_stage(text) for text in stages), ca=ca)


def stage_of(layers: str | None, callers: tuple[str, ...], next_ca: Path) -> StageWork | None:
    """Return what a node computes as a stage; None if it names no layers, and CONFIGURATION if either is missing."""
    if layers is None and not callers:
        return None
    if layers is None or not callers:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "a stage needs layers, and callers for whom it computes them",
            remedy="Pass --layers FIRST:LAST and, for each head and each stage before this one, --caller OPERATOR/NODE.",
        )
    return settled(StageWork, layers=layers, callers=callers, next_ca=next_ca)


def _stage(text: str) -> ChainStage:
    place, _, layers = text.rpartition("=")
    name, _, address = place.rpartition("@")
    address, *spares = address.split(",")
    return settled(
        ChainStage, address=address, layers=layers, name=name or None, spares=tuple(spares)
    )


def tls_files(
    name: str,
    folder: Path,
    *,
    local_ca: Path | None,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    hosts: tuple[str, ...],
) -> TlsFiles:
    """Return the server's certificate: a given one, or one issued by a local authority (and renewed when due)."""
    if local_ca is not None:
        names = hosts or ("localhost", "127.0.0.1", "::1")
        return LocalCA.load_or_create(local_ca.absolute()).issue(name, names, folder=folder)
    if cert is None or key is None or ca is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "a node needs a TLS certificate",
            remedy="Pass --tls-cert, --tls-key and --tls-ca, or --local-ca FOLDER.",
        )
    return TlsFiles(cert=cert.absolute(), key=key.absolute(), ca=ca.absolute())


def party_files(
    issuer: str,
    folder: Path,
    *,
    local_ca: Path | None,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
) -> PartyFiles:
    """Return the certificate that names the node to others: a given one, or one issued by a local authority."""
    if cert is not None and key is not None and ca is not None:
        given = PartyFiles(cert=cert.absolute(), key=key.absolute(), ca=ca.absolute())
        return check_party(given, PartyRole.NODE, issuer, "counterfoil node init")
    if local_ca is None or not (cert is None and key is None and ca is None):
        raise CounterfoilError(
            Code.CONFIGURATION,
            "a node needs a certificate that names it to other parties",
            remedy="Pass --party-cert, --party-key and --party-ca, or --local-ca FOLDER.",
        )
    authority = LocalCA.load_or_create(local_ca.absolute())
    return authority.issue_party(Party(PartyRole.NODE, issuer), folder=folder)


def add_tenant(path: Path, tenant: str, key_hex: str) -> int:
    """Add a tenant's public key to the file, or replace it; return how many tenants there are."""
    check_name(tenant, "the tenant")
    check_signing_key(parse_hex32(key_hex, "the tenant's key"))
    known = load(TenantsFile, path).tenants if path.exists() else {}
    tenants = {**known, tenant: key_hex}
    write_atomic(path, to_toml(TenantsFile(tenants=tenants)).encode())
    return len(tenants)
