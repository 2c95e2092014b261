"""Wires the audit server: database, sequencer, publication, gRPC and HTTPS. The only place where all rooms meet."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.x509 import Certificate
from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from audit_layer.api.grpc_services import audit_services
from audit_layer.api.http import create_app
from audit_layer.api.parts import Parts
from audit_layer.api.tokens import Tokens
from audit_layer.costs.service import Costs
from audit_layer.directory.service import Directory
from audit_layer.log.batcher import Batcher
from audit_layer.log.checkpoint_table import History
from audit_layer.log.cose_receipts import Receipts
from audit_layer.log.files import PublishedFiles
from audit_layer.log.folder_store import FolderStore
from audit_layer.log.fork_check import check_history, check_served
from audit_layer.log.proof_service import ProofService
from audit_layer.log.s3_store import S3Store
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.sequencer import Sequencer
from audit_layer.log.sign_and_publish import Publisher
from audit_layer.log.timestamps import HttpAuthority, Timestamper
from audit_layer.log.witnesses import HttpWitness
from audit_layer.storage.dsn import read_dsn_file
from audit_layer.storage.engine import make_engine
from audit_layer.trail.at_rest import with_keeper
from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.service import Trail
from audit_layer.trail.standings import Standings
from audit_layer.trail.write_rows import write_rows
from audit_layer.wiring.audit_settings import AuditSettings, WitnessSettings
from audit_layer.wiring.log_keys import load_cose_key, load_signers, log_policy
from audit_layer.wiring.server_metrics import server_metrics
from shared.codec.moment import now_ms
from shared.parties.permissions import AUDIT_GRPC
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import RpcServer, build_server
from shared.runtime.http import HttpsServer, serve_https
from shared.runtime.key_store import open_store
from shared.runtime.metrics_server import metrics
from shared.runtime.party import PartyFiles, PartyListener, PartyRole, check_party
from shared.runtime.probe import refused_by
from shared.runtime.readiness import write_ready
from shared.runtime.tls import client_context
from shared.translog.policy import LogPolicy
from shared.translog.timestamp import parse_anchors

THREADS: Final = 32
"""For use cases that block."""
HEALTH_S: Final = 5.0
"""How often gRPC's health service learns the log's health."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Core:
    """Database, sequencing and trail, as every command and the server need them."""

    engine: Engine
    batcher: Batcher
    trail: Trail
    tokens: Tokens


@contextlib.contextmanager
def open_core(settings: AuditSettings, *, application_name: str) -> Iterator[Core]:
    """Open the core; on exit, what was accepted is sequenced and connections are closed."""
    engine = with_keeper(
        make_engine(
            read_dsn_file(settings.database_dsn_file),
            application_name=application_name,
            pool_size=8,
        ),
        settings.erasure_key_file,
    )
    keys = open_store(settings.key_store)
    signers = load_signers(settings.keys_folder, settings.origin, keys)
    kept = SecondPlace(settings.second_place, [signer.verifier for signer in signers])
    batcher = Batcher(
        Sequencer(engine, guard=lambda connection: check_history(History(connection), kept)),
        in_transaction=write_rows,
        receipts=Receipts(signers, load_cose_key(settings.keys_folder, keys), kept),
    )
    try:
        yield Core(engine, batcher, Trail(engine, batcher, settings.profiles()), Tokens(engine))
    finally:
        batcher.close()
        engine.dispose()


def published(settings: AuditSettings) -> PublishedFiles:
    """Return the published log; CONFIGURATION when its place cannot be used at all."""
    place = settings.object_store
    if place is None:
        return PublishedFiles(FolderStore(settings.tiles_folder))
    return PublishedFiles(
        S3Store(
            place.bucket,
            region=place.region,
            prefix=place.prefix,
            endpoint=place.endpoint,
            ca=place.ca,
            credentials=place.credentials_file,
        )
    )


def second_place(settings: AuditSettings, policy: LogPolicy) -> SecondPlace:
    """Return the second place."""
    return SecondPlace(settings.second_place, policy.logs)


def party_of(settings: AuditSettings) -> PartyListener:
    """Return where parties call and what this server shows them; CONFIGURATION for a file from before they had certificates."""
    check_party(settings.party, PartyRole.AUDIT, None, "counterfoil audit init")
    assert settings.party is not None
    return settings.party


def timestamp_anchors(settings: AuditSettings) -> tuple[Certificate, ...]:
    """Return the certificates to which timestamps must chain, none without [timestamps]; CONFIGURATION."""
    if settings.timestamps is None:
        return ()
    path = settings.timestamps.ca
    try:
        return parse_anchors(path.read_bytes())
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror}"
    except CounterfoilError as error:
        detail = f"{path}: {error.detail}"
    raise CounterfoilError(
        Code.CONFIGURATION, detail, remedy="Put the timestamp authority's root certificate there."
    )


async def serve_audit(
    settings: AuditSettings, ready_file: Path | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set. CONFIGURATION when the settings, keys, addresses or tables are not usable.

    The ready file states what was bound: `{"grpc": "host:port", "http": "host:port"}`.
    """
    policy = log_policy(settings)
    party = party_of(settings)
    with open_core(settings, application_name="counterfoil-audit") as core, _threads():
        await asyncio.to_thread(_check_tables, core.trail)
        files = published(settings)
        proofs = ProofService(
            core.engine, files, policy, retry_after_s=settings.publish_interval_ms / 1000
        )
        parts = Parts(
            origin=settings.origin,
            engine=core.engine,
            trail=core.trail,
            standings=Standings(core.engine),
            proofs=proofs,
            files=files,
            costs=Costs(core.engine),
            tokens=core.tokens,
            check_health=lambda: check_served(core.engine, second_place(settings, policy), proofs),
        )
        witnesses = _witnesses(settings, party)
        publisher = _publisher(settings, policy, core.engine, files, witnesses)
        rpc = build_server(
            tls=settings.tls,
            address=settings.grpc_address,
            services=audit_services(
                core.trail,
                proofs,
                Directory(core.trail, proofs),
                parts.standings,
                publisher.next_published,
            ),
            reflection=settings.reflection,
            traffic=settings.traffic,
            rules=AUDIT_GRPC,
            parties=party,
        )
        async with (
            _publishing(publisher, witnesses, core.batcher) as publication,
            _timestamping(settings, core.engine),
            _looking_for_gaps(core.engine, settings),
            _answering(rpc, parts, settings) as https,
            _telling_health(rpc, parts.check_health),
        ):
            addresses = {
                "grpc": rpc.address,
                "party": rpc.party_address or "",
                "http": https.address,
            }
            gc.collect()
            gc.freeze()  # what is loaded by now stays; collecting it would stop all callers for 0.1 s
            _log.info("the audit server answers: %s", addresses)
            with metrics(settings.metrics, lambda: server_metrics(parts, rpc.calls)) as bound:
                if ready_file is not None:
                    write_ready(ready_file, {**addresses, **bound})
                await _until(stop, publication)


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Give the loop threads for blocking calls; on exit, wait until all of them are idle.

    Cancelling a task does not end its thread, and connections must outlive their users.
    """
    loop = asyncio.get_running_loop()
    workers = ThreadPoolExecutor(THREADS, thread_name_prefix="use-case")
    loop.set_default_executor(workers)
    try:
        yield
    finally:
        loop.set_default_executor(ThreadPoolExecutor(1))  # for whatever the loop does after us
        workers.shutdown(wait=True)


def _check_tables(trail: Trail) -> None:
    """Refuse a database that was never migrated; one that is down may come up later."""
    try:
        trail.status()
    except ProgrammingError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the database lacks the tables of this version",
            remedy="Run: counterfoil db upgrade",
        ) from error
    except CounterfoilError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        _log.warning("the database does not answer yet: %s", error)


@contextlib.asynccontextmanager
async def _answering(
    rpc: RpcServer, parts: Parts, settings: AuditSettings
) -> AsyncIterator[HttpsServer]:
    https = await serve_https(
        create_app(parts), settings.tls, settings.http_address, traffic=settings.traffic
    )
    try:
        await rpc.start()
        yield https
    finally:
        await asyncio.gather(rpc.stop(), https.stop())


@contextlib.asynccontextmanager
async def _in_background(
    work: Coroutine[Any, Any, None], name: str
) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` as a task while the block runs; then cancel it and wait for its end, however it ends."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _telling_health(rpc: RpcServer, check: Callable[[], None]) -> AsyncIterator[None]:
    """Have gRPC's health service say what `/healthz` says while the block runs; log changes."""

    async def run() -> None:
        problem: str | None = None
        while True:
            before, problem = problem, await asyncio.to_thread(_problem, check)
            if problem != before:
                await rpc.set_serving(serving=problem is None)
                _log.log(
                    logging.ERROR if problem else logging.INFO,
                    "health: %s",
                    problem or "healthy again",
                )
            await asyncio.sleep(HEALTH_S)

    async with _in_background(run(), "health"):
        yield


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except CounterfoilError as error:
        return str(error)
    except SQLAlchemyError as error:
        return f"the database cannot be asked ({type(error).__name__})"
    return None


def _publisher(
    settings: AuditSettings,
    policy: LogPolicy,
    engine: Engine,
    files: PublishedFiles,
    witnesses: Sequence[HttpWitness],
) -> Publisher:
    return Publisher(
        engine,
        signers=load_signers(settings.keys_folder, settings.origin, open_store(settings.key_store)),
        policy=policy,
        witnesses=witnesses,
        files=files,
        second_place=second_place(settings, policy),
        interval_s=settings.publish_interval_ms / 1000,
        refresh_s=settings.refresh_seconds,
    )


@contextlib.asynccontextmanager
async def _publishing(
    publisher: Publisher, witnesses: Sequence[HttpWitness], batcher: Batcher
) -> AsyncIterator[asyncio.Task[None]]:
    """Publish in the background while the block runs, and at once what somebody awaits."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(publisher.wake)

    batcher.tell(wake)
    try:
        async with _in_background(publisher.run(), "publication") as task:
            yield task
    finally:
        batcher.tell(None)
        for witness in witnesses:
            await witness.aclose()


def _witnesses(settings: AuditSettings, party: PartyFiles) -> list[HttpWitness]:
    return [
        _witness(witness, witness.ca or settings.tls.ca, party) for witness in settings.witnesses
    ]


def _witness(witness: WitnessSettings, ca: Path, party: PartyFiles) -> HttpWitness:
    why = partial(refused_by, witness.url, ca, party)
    return HttpWitness(witness.name, witness.url, client_context(ca, party), why=why)


@contextlib.asynccontextmanager
async def _timestamping(settings: AuditSettings, engine: Engine) -> AsyncIterator[None]:
    """Have checkpoints stamped in the background while the block runs, where that is configured."""
    anchors = timestamp_anchors(settings)
    chosen = settings.timestamps
    if chosen is None or chosen.url is None:
        yield
        return
    authority = HttpAuthority(
        chosen.url, None if chosen.tls_ca is None else client_context(chosen.tls_ca)
    )
    timestamper = Timestamper(
        engine,
        authority,
        origin=settings.origin,
        anchors=anchors,
        interval_s=chosen.interval_minutes * 60,
    )
    try:
        async with _in_background(timestamper.run(), "timestamps"):
            yield
    finally:
        await authority.aclose()


@contextlib.asynccontextmanager
async def _looking_for_gaps(engine: Engine, settings: AuditSettings) -> AsyncIterator[None]:
    """Look for missing numbers in the background while the block runs; a failed look is repeated."""
    watch = GapWatch(engine, grace_ms=settings.gap_grace_seconds * 1000)

    async def run() -> None:
        while True:
            try:
                found = await asyncio.to_thread(watch.look, now_ms())
                if found.reported:
                    _log.warning("%d gaps in numberings are too old: see findings", found.reported)
            except (CounterfoilError, SQLAlchemyError) as error:
                _log.warning("the search for missing numbers failed: %s", error)
            await asyncio.sleep(settings.gap_look_seconds)

    async with _in_background(run(), "gaps"):
        yield


async def _until(stop: asyncio.Event, publication: asyncio.Task[None]) -> None:
    """Wait for the end; publication that ends on its own is a failure of the server."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, publication}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await publication
            raise CounterfoilError(Code.INTERNAL, "publication ended on its own")
    finally:
        stopping.cancel()
