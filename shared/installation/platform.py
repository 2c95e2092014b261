"""The running platform: installs at first start, supervises, and shuts everything down."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from shared.installation import processes
from shared.installation.commands import Commands, Say
from shared.installation.credentials import Credentials
from shared.installation.install import Installer
from shared.installation.layout import Plan
from shared.installation.logwatch import watch
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PASSABLE_FOLDER, PRIVATE_FILE, make_folder
from shared.runtime.printable import is_text
from shared.runtime.supervisor import Supervisor

LAST_RUN_S = 40.0
"""How long processes left by an earlier run may take to end: longer than any guard waits before it kills."""

RENEW_S = 600.0
"""How often certificates are checked: they are renewed weeks before their expiry."""


class Platform:
    """One machine's platform while it is up."""

    def __init__(
        self, plan: Plan, installer: Installer, supervisor: Supervisor, commands: Commands
    ) -> None:
        self.plan = plan
        self.commands = commands
        self.ports = installer.ports
        self.supervisor = supervisor
        self.audit_config = installer.audit_config
        self.finance = (
            *("--url", f"https://{installer.ports['audit-http']}"),
            *("--token-file", str(plan.path("audit", "finance.token"))),
            *("--ca", str(plan.path("ca", "ca.pem"))),
        )
        """Options of the cost commands."""


@contextlib.asynccontextmanager
async def running(plan: Plan, say: Say) -> AsyncIterator[Platform]:
    """Bring the platform up; whatever happens, nothing is left running.
    CONFLICT if another `up` is running on the folder. An interrupted installation is redone.
    """
    _open_folder(plan.folder)
    async with _only_one(plan.folder, say) as lock:
        commands = Commands(say)
        installer = Installer(plan, commands)
        async with (
            contextlib.AsyncExitStack() as stack,
            Supervisor(say, inherited=(lock.fileno(),)) as supervisor,
        ):
            specs = [processes.postgres(plan), *processes.services(plan)]
            logs = {spec.name: spec.log_file for spec in specs}
            watcher = asyncio.create_task(watch({**logs, "database": plan.database_log}, say))
            stack.callback(watcher.cancel)
            renewal = asyncio.create_task(_renew(installer.credentials, say))
            stack.callback(renewal.cancel)
            await supervisor.start(specs[:1])
            if plan.up_to_date:
                installer.credentials.certificates()
                installer.credentials.party_certificates()
                await installer.credentials.renew_tokens()
            else:
                say("setup", _why_install(plan))
                await installer.install()
            await supervisor.start(specs[1:])
            yield Platform(plan, installer, supervisor, commands)


def _why_install(plan: Plan) -> str:
    if not plan.installed.exists():
        return f"first start: installing into {plan.folder}"
    return (
        f"{plan.folder} is from a version whose parties had no certificates: its configurations are written again; keys and"
        " data stay, and changes that you made to configurations have to be made again"
    )


async def _renew(credentials: Credentials, say: Say) -> None:
    """Renew certificates and tokens while everything runs, until cancelled; the start has already done it once."""
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            await asyncio.to_thread(credentials.renew)
            await credentials.renew_tokens()
        except (CounterfoilError, OSError) as error:
            say("setup", f"certificates or tokens cannot be renewed: {error}")


def _open_folder(folder: Path) -> None:
    """Create the folder so that the database's own user can traverse it; secrets have file modes of their own."""
    if not is_text(folder):
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the folder's name {os.fsencode(folder)!r} is not UTF-8 text, so no configuration can name it",
            remedy="Choose another --folder.",
        )
    make_folder(folder, PASSABLE_FOLDER).chmod(PASSABLE_FOLDER)


@contextlib.asynccontextmanager
async def _only_one(folder: Path, say: Say) -> AsyncIterator[IO[str]]:
    """Hold the folder's lock. Guards hold it too, so it is free only when nothing is left of an earlier run."""
    descriptor = os.open(folder / "up.lock", os.O_RDWR | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    with os.fdopen(descriptor, "a+", encoding="ascii") as lock:
        await _take(lock, folder, say)
        if last := _holder(lock):
            say("setup", f"the last run (process {last}) died without stopping; resuming")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield lock
        finally:
            lock.truncate(0)  # on every orderly exit; a process that dies leaves its number


async def _take(lock: IO[str], folder: Path, say: Say) -> None:
    """Take the lock; wait while only the leftover processes of a dead run hold it."""
    deadline = time.monotonic() + LAST_RUN_S
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _alive(_holder(lock)) or time.monotonic() > deadline:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"another `counterfoil up` is running on {folder}",
                    remedy="Stop it first, or choose another --folder.",
                ) from None
            if not told:
                say("setup", "waiting for the processes of the last run to end")
                told = True
            await asyncio.sleep(0.1)
        else:
            return


def _holder(lock: IO[str]) -> int | None:
    """Return the process whose number is still in the lock file."""
    lock.seek(0)
    written = lock.read().strip()
    return int(written) if written.isdigit() else None


def _alive(process: int | None) -> bool:
    """Return whether a process is running; one that has not yet written its number is."""
    if process is None:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
