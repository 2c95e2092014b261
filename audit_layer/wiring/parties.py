"""Wires the two parties: keys from files, stores, applications, servers."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from audit_layer.custodian.app import create_app as custodian_app
from audit_layer.custodian.core import Custodian
from audit_layer.custodian.settings import CustodianSettings
from audit_layer.custodian.store import ReleaseStore
from audit_layer.wiring.party_keys import cosigners
from audit_layer.wiring.party_metrics import custodian_metrics, witness_metrics
from audit_layer.witness.app import create_app as witness_app
from audit_layer.witness.core import Witness
from audit_layer.witness.settings import WitnessSettings
from audit_layer.witness.store import WitnessStore
from shared.envelope.hpke import load_hpke_key
from shared.parties.beacon_http import beacon_router
from shared.parties.beacon_service import BeaconService
from shared.parties.identity_book import IdentityBook
from shared.parties.reveal_memory import RevealMemory
from shared.parties.settings import key_bytes
from shared.runtime.http import serve_https
from shared.runtime.key_store import open_store
from shared.runtime.keys import KeyStore, load_or_create_ed25519, public_bytes
from shared.runtime.metrics_server import metrics
from shared.runtime.party import check_callers
from shared.runtime.readiness import write_ready
from shared.selection.party import BeaconParty
from shared.verification.limits import Recipient, Terms
from shared.verification.trust import Trust


def _beacon(
    settings: WitnessSettings | CustodianSettings,
    keys: KeyStore,
    memory: RevealMemory,
    authority: bytes,
) -> BeaconService:
    path, log = settings.keys_folder / "beacon.secret", settings.log
    if not path.exists():
        keys.create_secret(path, secrets.token_bytes(32))
    key = load_or_create_ed25519(settings.keys_folder / "sign.pem", keys)
    party = BeaconParty(settings.name, log.origin, keys.secret(path), key)
    return BeaconService(party, memory, log.policy(), authority)


def _keys(pinned: Mapping[str, str], role: str) -> dict[str, bytes]:
    return {name: key_bytes(key, f"the key of {role} {name}") for name, key in pinned.items()}


async def serve_witness(
    settings: WitnessSettings, ready_file: Path | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set."""
    callers = check_callers(settings.party, "witness.toml", "counterfoil audit witness init")
    authority = key_bytes(settings.authority, "authority")
    memory = RevealMemory(settings.state_file.with_name("reveals.sqlite"))
    keys = open_store(settings.key_store)
    beacon = _beacon(settings, keys, memory, authority)
    with WitnessStore(settings.state_file) as store:
        known = {settings.log.origin: settings.log.policy().logs}
        witness = Witness(store, cosigners(settings.keys_folder, settings.name, keys), known)
        app = witness_app(
            witness,
            extra_routers=[beacon_router(beacon)],
            behind_proxy=callers.behind_proxy,
        )
        server = await serve_https(
            app, settings.tls, settings.address, traffic=settings.traffic, callers_ca=callers.ca
        )
        with metrics(settings.metrics, partial(witness_metrics, witness)) as bound:
            if ready_file is not None:
                write_ready(ready_file, {"https": server.address, **bound})
            await stop.wait()
        await server.stop()
    memory.close()


async def serve_custodian(
    settings: CustodianSettings, ready_file: Path | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set."""
    callers = check_callers(settings.party, "custodian.toml", "counterfoil audit custodian init")
    authority = key_bytes(settings.authority, "authority")
    folder, keys = settings.keys_folder, open_store(settings.key_store)
    signing = load_or_create_ed25519(folder / "sign.pem", keys)
    hpke = load_hpke_key(folder / "hpke.key", keys)
    memory = RevealMemory(settings.state_file.with_name("reveals.sqlite"))
    store = ReleaseStore(settings.state_file)
    parties = {**_keys(settings.parties, "beacon party"), settings.name: public_bytes(signing)}
    workers = {item.name: item.keys() for item in settings.workers}
    trust = Trust.of(
        settings.log.policy(),
        authority=authority,
        parties=parties,
        workers={name: signing_key for name, (signing_key, _) in workers.items()},
        operators=_keys(settings.operators, "operator") or None,
        tenants=_keys(settings.tenants, "tenant") or None,
    )
    terms = Terms(
        settings.name,
        tuple(Recipient(name, hpke_key) for name, (_, hpke_key) in workers.items()),
        settings.limits.limits(),
    )
    book = IdentityBook(settings.state_file.with_name("identities.json"), trust.required_log())
    custodian = Custodian(settings.name, signing, hpke, trust, terms, store, memory, book)
    beacon = _beacon(settings, keys, memory, authority)
    app = custodian_app(custodian, beacon, behind_proxy=callers.behind_proxy)
    server = await serve_https(
        app, settings.tls, settings.address, traffic=settings.traffic, callers_ca=callers.ca
    )
    with metrics(settings.metrics, partial(custodian_metrics, custodian)) as bound:
        if ready_file is not None:
            write_ready(ready_file, {"https": server.address, **bound})
        await stop.wait()
    await server.stop()
    store.close()
    memory.close()
