"""Wires audit workers and beat: Celery application, authority, worker, rating."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready
from sqlalchemy import Engine

from audit_layer.costs.budgets.alerts import Alerts
from audit_layer.costs.closing import Closing
from audit_layer.costs.service import Costs
from audit_layer.costs.tasks import register as register_costs
from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.disclosure.parties import BeaconClient, CustodianClient
from audit_layer.disclosure.service import Disclosure
from audit_layer.replay import work_list
from audit_layer.replay.counts import WorkerCounts
from audit_layer.replay.due_case import TrailDeposits
from audit_layer.replay.lease import LeaseTerms
from audit_layer.replay.replayer import Replayer
from audit_layer.replay.shown import ShownJudge
from audit_layer.replay.tasks import offer_work, register_worker
from audit_layer.replay.worker import Worker
from audit_layer.selection.authority import Authority
from audit_layer.selection.settings import AuthoritySettings
from audit_layer.selection.tasks import register_authority, register_sealing
from audit_layer.selection.tenant_seals import Sealing
from audit_layer.storage.dsn import read_dsn_file
from audit_layer.storage.engine import check_usable, make_engine
from audit_layer.trail.at_rest import with_keeper
from audit_layer.wiring.broker import make_app
from audit_layer.wiring.worker_metrics import CeleryCounts, beat_metrics, worker_metrics
from audit_layer.wiring.worker_settings import WorkerSettings
from shared.envelope.hpke import hpke_key_id, load_hpke_key, load_or_create_hpke_key
from shared.parties.settings import key_bytes
from shared.parties.webhook import Webhook
from shared.runtime.config import read_secret
from shared.runtime.key_store import open_store
from shared.runtime.keys import (
    FILES,
    KeyStore,
    load_ed25519,
    load_or_create_ed25519,
    private_folder,
    public_bytes,
)
from shared.runtime.metrics_server import MetricsSettings, metrics
from shared.runtime.party import PartyRole, check_party
from shared.runtime.readiness import write_ready
from shared.verification.trust import AUTHORITY

logger = logging.getLogger(__name__)


def worker_identity(
    keys: Path, name: str, store: KeyStore = FILES, *, authority: bool
) -> dict[str, object]:
    """Return what others must know about a worker; creates its keys."""
    private_folder(keys)
    identity: dict[str, object] = {
        "name": name,
        "hpke_key": load_or_create_hpke_key(keys / "hpke.key", store).public_bytes,
        "signing_key": public_bytes(load_or_create_ed25519(keys / "sign.pem", store)),
    }
    if authority:
        identity["authority_key"] = public_bytes(
            load_or_create_ed25519(keys / "authority.pem", store)
        )
    return identity


@dataclass(slots=True)
class WorkerProcess:
    """One worker's parts, closed together."""

    app: Celery
    engine: Engine
    server: AuditServer
    replayer: Replayer
    parties: list[BeaconClient]
    counts: WorkerCounts = field(default_factory=WorkerCounts)
    metrics: MetricsSettings | None = None

    def run(self, name: str, ready_file: Path | None, loglevel: str) -> None:
        """Work until told to stop. One task at a time: replay runs in its own process."""

        celery = CeleryCounts(frozenset(self.app.tasks))
        arguments = ["worker", "--pool=solo", "--without-gossip", "--without-mingle"]
        try:
            with metrics(self.metrics, lambda: worker_metrics(name, self.counts, celery)) as bound:

                def ready(**_: object) -> None:
                    if ready_file is not None:
                        write_ready(ready_file, {"worker": name, **bound})

                worker_ready.connect(ready, weak=False)
                self.app.worker_main(
                    [*arguments, f"--hostname={name}@%h", f"--loglevel={loglevel}"]
                )
        finally:
            celery.close()
            self.replayer.close()
            self.server.close()
            for party in self.parties:
                party.close()
            self.engine.dispose()


def build_worker(settings: WorkerSettings) -> WorkerProcess:
    """Build a worker from its settings."""
    party = check_party(
        settings.party, PartyRole.WORKER, settings.name, "counterfoil audit worker init"
    )
    engine = _engine(settings)
    server = AuditServer(settings.audit_server, settings.ca_file, party)
    custodians = {
        hpke_key_id(key_bytes(item.hpke_key or "", item.name)): CustodianClient(
            item.name, item.url, settings.ca_file, party
        )
        for item in settings.custodians
    }
    witnesses = [
        BeaconClient(item.name, item.url, settings.ca_file, party) for item in settings.witnesses
    ]
    parties: list[BeaconClient] = [*witnesses, *custodians.values()]
    replayer = _replayer(settings)
    app = make_app(
        read_secret(settings.broker_url_file),
        worker=settings.name,
        authority=settings.authority is not None,
        tick_s=settings.tick_seconds,
    )
    keys = open_store(settings.key_store)
    signing_key = load_ed25519(settings.keys_folder / "sign.pem", keys)
    worker = Worker(
        name=settings.name,
        engine=engine,
        server=server,
        disclosure=Disclosure(
            name=settings.name,
            server=server,
            custodians=custodians,
            deposits=TrailDeposits(engine),
            private_key=load_hpke_key(settings.keys_folder / "hpke.key", keys),
            signing_key=signing_key,
            ca_file=settings.ca_file,
            party=party,
            evidence_timeout_s=settings.evidence_timeout_seconds,
        ),
        replayer=replayer,
        key=signing_key,
        lease=LeaseTerms(
            floor_ms=int(settings.lease_seconds * 1000),
            cap_ms=int(settings.longest_replay_seconds * 1000),
        ),
    )
    register_worker(app, worker)
    if settings.authority is not None:
        _add_authority(app, settings, settings.authority, engine, server, parties)
    return WorkerProcess(app, engine, server, replayer, parties, worker.counts, settings.metrics)


@contextlib.contextmanager
def shown_judge(settings: WorkerSettings) -> Iterator[ShownJudge]:
    """Build the part of a worker that judges what clients show; it ends with the block."""
    party = check_party(
        settings.party, PartyRole.WORKER, settings.name, "counterfoil audit worker init"
    )
    key = load_ed25519(settings.keys_folder / "sign.pem", open_store(settings.key_store))
    engine = _engine(settings)
    try:
        with (
            AuditServer(settings.audit_server, settings.ca_file, party) as server,
            _replayer(settings) as replayer,
        ):
            yield ShownJudge(settings.name, engine, server, replayer, key)
    finally:
        engine.dispose()


def _engine(settings: WorkerSettings) -> Engine:
    engine = with_keeper(
        make_engine(read_dsn_file(settings.database_dsn_file), application_name=settings.name),
        settings.erasure_key_file,
    )
    check_usable(engine)
    return engine


def _replayer(settings: WorkerSettings) -> Replayer:
    return Replayer(
        settings.models,
        threads=settings.replay_threads,
        timeout_s=settings.replay_seconds,
        per_token_s=settings.replay_seconds_per_token,
    )


def _add_authority(
    app: Celery,
    settings: WorkerSettings,
    chosen: AuthoritySettings,
    engine: Engine,
    server: AuditServer,
    parties: Sequence[BeaconClient],
) -> None:
    """Let this worker be the selection authority too: epochs and draws, tenant seals, and rating and closing on the same clock."""
    authority = Authority(
        name=AUTHORITY,
        engine=engine,
        server=server,
        parties=parties,
        key=load_ed25519(chosen.key_file, open_store(settings.key_store)),
        origin=settings.origin,
        settings=chosen,
        peers=settings.peers,
        work=work_list,
    )
    hint_ms = int(settings.hint_seconds * 1000)
    register_authority(app, authority, partial(offer_work, app, engine, hint_ms=hint_ms))
    register_sealing(app, Sealing(AUTHORITY, engine, server, authority.key, chosen))
    alerts = None if settings.alerts is None else Alerts(engine, Webhook.of(settings.alerts))
    register_costs(app, Costs(engine), Closing(AUTHORITY, engine, server, authority.key), alerts)


def run_beat(
    settings: WorkerSettings, schedule: Path, ready_file: Path | None, loglevel: str
) -> None:
    """Send the scheduled hints until told to stop."""
    app = make_app(
        read_secret(settings.broker_url_file),
        worker=settings.name,
        authority=True,
        tick_s=settings.tick_seconds,
    )
    celery = CeleryCounts(frozenset(entry["task"] for entry in app.conf.beat_schedule.values()))
    with metrics(settings.beat_metrics, lambda: beat_metrics(settings.name, celery)) as bound:
        if ready_file is not None:
            write_ready(ready_file, {"beat": settings.name, **bound})
        app.Beat(loglevel=loglevel, schedule=str(schedule)).run()
