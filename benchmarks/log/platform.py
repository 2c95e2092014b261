"""The parts under load, set up and started by the product's own commands: a Postgres that syncs, witness, audit server."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import benchmarks
from audit_layer.storage import migrate, roles
from audit_layer.storage.dsn import on_database, read_dsn_file
from audit_layer.storage.embedded import EmbeddedPostgres
from benchmarks.log.statements import PROFILE
from shared.installation.commands import CLI, Commands, environment
from shared.installation.layout import free_ports
from shared.runtime.keys import write_atomic
from shared.runtime.party import Party, PartyRole
from shared.runtime.supervisor import ProcessSpec, Supervisor
from shared.runtime.tls import LocalCA
from shared.translog.policy import LogPolicy

ROOT = Path(benchmarks.__file__).parent.parent
ORIGIN = "log.example/benchmark"
WITNESS, AUDIT = "witness", "audit"
PUBLISH_INTERVAL_MS = 250
"""As in `counterfoil up`."""
SHOWN = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers")
TEMPLATE = "counterfoil_empty"


class Store:
    """A Postgres with our roles, and as many migrated databases as requested."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._admin_dsn = server.admin_dsn
        self.files = roles.initialise(server.admin_dsn, server.secrets_folder)
        migrate.upgrade(read_dsn_file(self.files["owner"]))
        self._databases = 0

    def dsn(self, role: str, database: str = roles.DATABASE) -> str:
        """Return how a role reaches a database."""
        return on_database(read_dsn_file(self.files[role]), database)

    def settings(self) -> dict[str, str]:
        """Return what decides whether a commit is on disk, as the running server states it."""
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            found = {}
            for name in SHOWN:
                row = admin.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
                assert row is not None
                found[name] = str(row[0])
            return found

    def log_size(self) -> int:
        """Return how many entries the log in the first database holds."""
        with psycopg.connect(self.dsn("server"), autocommit=True) as connection:
            row = connection.execute("SELECT size FROM log_state").fetchone()
            assert row is not None
            return int(row[0])

    def fresh_database(self) -> str:
        """Create an empty, migrated database, flush everything to disk, and return its name."""
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            if not self._databases:
                self._create(admin, TEMPLATE, "template0")
                owner = self.dsn("owner", TEMPLATE)
                roles.open_schema(owner)
                migrate.upgrade(owner)
            self._databases += 1
            name = f"bench_{self._databases}"
            self._create(admin, name, TEMPLATE)
            admin.execute("CHECKPOINT")
        return name

    def drop(self, name: str) -> None:
        """Remove a database."""
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _create(self, admin: "psycopg.Connection[Any]", name: str, template: str) -> None:
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                *map(sql.Identifier, (name, roles.ROLES["owner"], template))
            )
        )


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Store]:
    """Run the embedded Postgres as production does: every commit is synced."""
    with EmbeddedPostgres(folder / "postgres", durable=True) as server:
        yield Store(server)


@dataclass(frozen=True, slots=True)
class Platform:
    """A log with its witness; the audit server may or may not run."""

    folder: Path
    store: Store
    ca: Path
    known: Mapping[str, Any]
    """What `audit init` printed."""
    vkeys: tuple[str, ...]
    """The witness's."""
    supervisor: Supervisor

    @property
    def config(self) -> Path:
        return Path(self.known["config"])

    @property
    def cose_key(self) -> bytes:
        return bytes.fromhex(self.known["cose_key"])

    @property
    def policy(self) -> LogPolicy:
        return LogPolicy.from_vkeys(logs=self.known["log_vkeys"], witnesses=self.vkeys, threshold=1)

    @property
    def tiles(self) -> Path:
        return self.config.parent / "log"

    async def serve(self, profile: Path | None = None) -> dict[str, str]:
        """Start the audit server, under the profiler where a file (absolute) is given; return its addresses."""
        program: Sequence[str] = CLI
        if profile is not None:
            program = (sys.executable, "-m", "benchmarks.log.profiled", str(profile))
        spec = _spec(self.folder, AUDIT, (*program, "audit", "serve", "--config", str(self.config)))
        await self.supervisor.start([spec])
        assert spec.ready_file is not None
        found: dict[str, str] = json.loads(spec.ready_file.read_text(encoding="utf-8"))
        return found


@contextlib.asynccontextmanager
async def platform(
    folder: Path, store: Store, parties: Sequence[Mapping[str, str]]
) -> AsyncIterator[Platform]:
    """Set up a log on the store's database and start its witness; both are gone when the block ends."""
    run = Commands(_silent)
    authority = LocalCA.load_or_create(folder / "ca")
    audit_tls, witness_tls = authority.issue(AUDIT), authority.issue(WITNESS)
    shown = authority.issue_party(Party(PartyRole.AUDIT, ORIGIN), folder=folder / "party")
    address = free_ports((WITNESS,))[WITNESS]
    identity, known = await asyncio.gather(
        run.json("audit", "witness", "keys", "--folder", folder / WITNESS, "--name", WITNESS),
        run.json(
            *("audit", "init", "--folder", folder / AUDIT, "--origin", ORIGIN),
            *("--dsn-file", store.files["server"]),
            *("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            *("--cert", audit_tls.cert, "--key", audit_tls.key, "--ca", audit_tls.ca),
            *("--party-cert", shown.cert, "--party-key", shown.key, "--party-ca", shown.ca),
            *("--publish-interval-ms", str(PUBLISH_INTERVAL_MS)),
            *("--numeric-profile", PROFILE.hex()),
        ),
    )
    config, vkeys = Path(known["config"]), identity["vkeys"]
    trust = {
        "log": {"origin": ORIGIN, "vkeys": known["log_vkeys"], "witnesses": vkeys, "quorum": 1},
        "authority": next(party["key"] for party in parties if party["role"] == "authority"),
    }
    await asyncio.gather(
        run.run(
            *("audit", "trust", "--config", config, "--name", WITNESS),
            *("--url", f"https://{address}"),
            *(part for vkey in vkeys for part in ("--vkey", vkey)),
        ),
        run.run(
            *("audit", "witness", "init", "--config-folder", folder / WITNESS, "--name", WITNESS),
            *("--address", address, "--cert", witness_tls.cert, "--key", witness_tls.key),
            *("--ca", witness_tls.ca, "--trust", _json(folder / "trust.json", trust)),
            *("--party-ca", witness_tls.ca),
        ),
    )
    listed = _json(folder / "parties.json", parties)
    await run.run("audit", "party", "import", listed, "--config", config)
    async with Supervisor(_silent) as supervisor:
        started = (*CLI, "audit", "witness", "serve", "--config")
        await supervisor.start(
            [_spec(folder, WITNESS, (*started, str(folder / WITNESS / "witness.toml")))]
        )
        yield Platform(folder, store, authority.ca_file, known, tuple(vkeys), supervisor)


def _spec(folder: Path, name: str, command: tuple[str, ...]) -> ProcessSpec:
    """Return a process that ends with us and is not started again: a restart would be in the figures."""
    (folder / "logs").mkdir(exist_ok=True)
    ready = folder / "logs" / f"{name}.ready.json"
    return ProcessSpec(
        name=name,
        command=(*command, "--ready-file", str(ready)),
        log_file=folder / "logs" / f"{name}.log",
        env=environment(),
        cwd=ROOT,
        ready_file=ready,
        restart=False,
    )


def _json(path: Path, value: Any) -> Path:
    write_atomic(path, json.dumps(value, indent=1).encode())
    return path


def _silent(_who: str, _what: str) -> None:
    pass
