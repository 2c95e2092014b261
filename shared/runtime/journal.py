"""Small durable state in one sqlite3 file: a single writer, and group commit.

Writes run one after another in a thread of their own. Those that arrive while a commit is on its way to
the disk share the next one, so that many concurrent callers pay for few syncs. A write returns only when
it is on disk (WAL, synchronous=FULL); if it raises, nothing of it was stored.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PRIVATE_FILE, private_folder

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
_Job = tuple[Operation[Any], "Future[Any]"]

MAX_GROUP: Final = 256
_WHY: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "a file next to it cannot be opened",
    sqlite3.SQLITE_BUSY: "another process holds it",
    sqlite3.SQLITE_NOMEM: "there is no memory",
}
"""Why sqlite cannot write a file, by its primary error code."""
_BUSY_S: Final = 10.0
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""The files that sqlite keeps next to a database."""


class Unwritable(CounterfoilError):  # noqa: N818  # a state of the disk
    """UNAVAILABLE: a write could not be made durable. `reason` says why, but not where."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            f"{path} cannot be written: {reason}",
            remedy=f"Check the disk that holds {path.parent}; nothing needs to be restarted.",
        )
        self.reason = reason


class Journal:
    """A sqlite3 file with its schema; safe to use from any thread and event loop of this process.

    `schema` is run once, in a new file; `version` guards against a file of another software version. `upgrades` maps a file's
    version to the SQL that upgrades it to the next one. With `exclusive`, a second process that opens the same file as
    a Journal gets CONFLICT.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: str,
        version: int,
        upgrades: Mapping[int, str] = MappingProxyType({}),
        exclusive: bool = False,
    ) -> None:
        private_folder(path.parent)
        self._lock_file = _lock(path) if exclusive else None
        try:
            keep_private(path)
            self._writer = connect(path)
            _prepare(self._writer, path, schema, version, upgrades)
            self._reader = connect(path, read_only=True)
        except BaseException:
            _unlock(self._lock_file)
            raise
        self._reading = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._path = path
        self._failure: Unwritable | None = None
        self._thread = threading.Thread(target=self._run, name=f"journal {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def failure(self) -> Unwritable | None:
        """Why the last write could not be made durable; None if it was, or if nothing was written yet."""
        return self._failure

    async def probe(self) -> None:
        """Find out whether the file can be written, by rewriting a value that it already holds."""
        await self.write(_rewrite_version)

    def submit(self, operation: Operation[T]) -> "Future[T]":
        """Queue a write; its future is done when the write is on disk or has raised."""
        if self._closed:
            raise CounterfoilError(Code.UNAVAILABLE, "the journal is closed")
        future: Future[T] = Future()
        self._jobs.put((operation, future))
        return future

    async def write(self, operation: Operation[T]) -> T:
        """Run a write from an event loop and return its result once it is durable."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(operation)))

    def write_now(self, operation: Operation[T]) -> T:
        """Run a write and block until it is durable; never from an event loop."""
        return self.submit(operation).result()

    def read(self, operation: Operation[T]) -> T:
        """Run a short query immediately; it sees every write that has returned."""
        with self._reading:
            return operation(self._reader)

    def close(self) -> None:
        """Finish what is queued, then close the file."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        with self._reading:
            self._reader.close()
        _unlock(self._lock_file)

    def _run(self) -> None:
        ended = False
        while not ended:
            group = [self._jobs.get()]
            while group[-1] is not None and len(group) < MAX_GROUP:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            ended = group[-1] is None
            self._commit([job for job in group if job is not None])
        self._writer.close()

    def _commit(self, group: list[_Job]) -> None:
        """Run a group in one transaction; until the commit, each operation succeeds or fails on its own."""
        live = [job for job in group if job[1].set_running_or_notify_cancel()]
        if not live:
            return
        try:
            results = self._run_operations(live)
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raised = self._unwritable(error)
            if isinstance(raised, Unwritable):
                self._failure = raised
            for _, future in live:
                if not future.done():
                    future.set_exception(raised)
            return
        self._failure = None
        for future, result in results:
            future.set_result(result)

    def _run_operations(self, live: list[_Job]) -> list[tuple["Future[Any]", Any]]:
        """Run operations and commit; return their results. Raises if none of them is durable."""
        results: list[tuple[Future[Any], Any]] = []
        self._writer.execute("BEGIN IMMEDIATE")
        for operation, future in live:
            self._writer.execute("SAVEPOINT operation")
            try:
                result = operation(self._writer)
            except Exception as error:  # for the caller to handle
                if isinstance(self._unwritable(error), Unwritable):
                    raise  # sqlite may have rolled back the whole transaction
                self._writer.execute("ROLLBACK TO operation")
                future.set_exception(error)
            else:
                results.append((future, result))
            self._writer.execute("RELEASE operation")
        self._writer.execute("COMMIT")
        return results

    def _unwritable(self, error: Exception) -> Exception:
        """Return Unwritable for an error of the file; any other error as it is."""
        code = getattr(error, "sqlite_errorcode", None)
        reason = None if code is None else _WHY.get(code & 0xFF)
        if reason is None or not isinstance(error, sqlite3.OperationalError):
            return error
        failed = Unwritable(self._path, reason)
        failed.__cause__ = error
        return failed


def _rewrite_version(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute(f"PRAGMA user_version = {version:d}")


def keep_private(path: Path) -> None:
    """Create a database's file if there is none, and make it readable by its owner only, -wal and -shm included.
    sqlite gives the files next to a database the mode of the database, so this runs before it is opened.
    Raises:
        CounterfoilError: CONFIGURATION if a file is open to other users and belongs to another one.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
    for file in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE)):
        with contextlib.suppress(
            FileNotFoundError
        ):  # sqlite creates and removes the ones next to it
            _close_to_others(file)


def _close_to_others(file: Path) -> None:
    mode = stat.S_IMODE(file.stat().st_mode)
    if not mode & 0o077:
        return
    try:
        file.chmod(mode & ~0o077)
    except PermissionError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{file} is open to other users (mode {mode:04o}), and belongs to another user",
            remedy=f"Run as its owner: chmod 600 {shlex.quote(str(file))}",
        ) from error


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode that any thread may use, one at a time.
    A reader does not block the writer and is not blocked by it. NOT_FOUND if there is no file.
    """
    mode = "ro" if read_only else "rw"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_S,
        )
        connection.row_factory = sqlite3.Row
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.OperationalError as error:
        raise CounterfoilError(
            Code.NOT_FOUND, f"{path} cannot be opened as a database: {error}"
        ) from error
    except sqlite3.DatabaseError as error:
        raise CounterfoilError(Code.CORRUPT, f"{path} is not a database: {error}") from error
    return connection


def lock_holder(path: Path) -> int | None:
    """Return the id of the process that holds `path` exclusively, None if none does."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None


def _prepare(
    connection: sqlite3.Connection,
    path: Path,
    schema: str,
    version: int,
    upgrades: Mapping[int, str],
) -> None:
    connection.execute("BEGIN IMMEDIATE")  # two processes may open a new file at once
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        now = found
        while now != version and (script := upgrades.get(now) if now else schema) is not None:
            for statement in script.split(";"):
                connection.execute(statement)
            now = now + 1 if now else version
        if now != found:
            connection.execute(f"PRAGMA user_version = {now:d}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        connection.close()
        raise
    if now != version:
        connection.close()
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} has version {found}; this program writes version {version}"
        )


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> int:
    descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CounterfoilError(
            Code.CONFLICT,
            f"another process uses {path}",
            remedy="Stop it, or give this process files of its own.",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)  # the file stays: removing it would let two processes hold two locks
