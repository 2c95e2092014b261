"""The running platform: installs at first start, supervises, and puts everything away again."""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.supervisor import Supervisor
from shared.runtime.up import processes
from shared.runtime.up.install import Installer
from shared.runtime.up.layout import Plan

Say = Callable[[str, str], None]
"""Called with (process or step, what happened)."""


class Platform:
    """One machine's platform while it is up."""

    def __init__(self, plan: Plan, installer: Installer, supervisor: Supervisor) -> None:
        self.plan = plan
        self.ports = installer.ports
        self.supervisor = supervisor
        self.audit_config = installer.audit_config
        self.server_dsn = installer.dsn("server")


@contextlib.asynccontextmanager
async def running(plan: Plan, say: Say) -> AsyncIterator[Platform]:
    """Bring the platform up; on every way out nothing is left running.

    CONFLICT when another `up` runs on the folder. An installation that was interrupted is done again.
    """
    _open_folder(plan.folder)
    with _only_one(plan.folder):
        installer = Installer(plan, lambda text: say("setup", text))
        async with Supervisor(say) as supervisor:
            await supervisor.start([processes.postgres(plan)])
            if plan.installed.exists():
                installer.certificates()
            else:
                say("setup", "first start: installing into " + str(plan.folder))
                await installer.install()
            await supervisor.start(processes.services(plan))
            yield Platform(plan, installer, supervisor)


def _open_folder(folder: Path) -> None:
    """Create the folder so that the database's own user can pass through it; what is secret has modes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    lock: IO[str] = (folder / "up.lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise CounterfoilError(
            Code.CONFLICT,
            f"another `counterfoil up` is running on {folder}",
            remedy="Stop it first, or choose another --folder.",
        ) from error
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
    finally:
        lock.close()
