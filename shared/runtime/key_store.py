"""Key stores: where a party keeps the keys that it signs and opens with, chosen under `[key_store]` in its configuration.

`file`: files that only their owner can read. `passphrase`: the same files, each under one passphrase. Any other kind names a
plug-in, for a device or a service that uses the keys itself and never hands them out (`held_keys`).
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from shared.runtime import age
from shared.runtime.config import Settings, check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.held_keys import HeldKeys, Loader, installed
from shared.runtime.keys import (
    FILES,
    Algorithm,
    KeyStore,
    create_private,
    private_folder,
    read_key_file,
)
from shared.runtime.printable import command_line

MOST_PASSPHRASE: Final = 1024
SOURCES: Final = ("fd", "file", "credential", "env")
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""Names the folder in which systemd puts a unit's credentials."""
FILE, PASSPHRASE = "file", "passphrase"


class KeyStoreSettings(Settings):
    """Where this party's keys are."""

    kind: str = Field(default=FILE, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """`file`: in files that only their owner can read. `passphrase`: in files under a passphrase. Otherwise the name of a
    plug-in that is installed, which uses the keys itself (PKCS#11, KMS); key files then only refer to it."""
    passphrase_from: str | None = None
    """Where the passphrase is, never itself: `fd:3`, `file:/path`, `credential:NAME` (systemd), or `env:NAME` for an
    environment variable that names a file."""
    options: dict[str, str] = Field(default_factory=dict)
    """What a plug-in needs to know; no secrets."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == PASSPHRASE) != (self.passphrase_from is not None):
            raise ValueError('passphrase_from is for kind = "passphrase", which needs it')
        if self.passphrase_from is not None:
            _parts(self.passphrase_from)
        if self.options and self.kind in {FILE, PASSPHRASE}:
            raise ValueError("options are for plug-ins")
        return self


class PassphraseStore:
    """Keys are in files under one passphrase (age, scrypt)."""

    kind = PASSPHRASE

    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase

    def __repr__(self) -> str:
        return "PassphraseStore()"

    def secret(self, path: Path) -> bytes:
        """Return the content of a key file."""
        data = read_key_file(path)
        if not age.is_sealed(data):
            raise CounterfoilError(
                Code.CONFIGURATION,
                f'{path} has no passphrase, although the configuration says kind = "passphrase"',
                remedy=f"Put one on it: {command_line('counterfoil', 'key', 'protect', path)} --passphrase-from …",
            )
        return unsealed(path, data, self._passphrase)

    def create_secret(self, path: Path, data: bytes) -> bool:
        """Store a key file under the passphrase unless there is one."""
        private_folder(path.parent)
        return create_private(path, age.seal(data, self._passphrase))

    def held(self, path: Path, algorithm: Algorithm, *, create: bool = False) -> None:
        """No key is held by anybody else."""


_unseal = functools.lru_cache(maxsize=64)(age.unseal)
"""The work is done once for each content of a file, however often a process reads it; the key is in its memory anyway."""


def unsealed(path: Path, data: bytes, passphrase: bytes) -> bytes:
    """Return what a key file holds under a passphrase; CONFIGURATION if it is another one, or the file was changed."""
    try:
        return _unseal(data, passphrase)
    except age.WrongPassphraseError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the passphrase does not open {path}",
            remedy="Check what passphrase_from names, and that it is the one with which this file was protected.",
        ) from error
    except age.DamagedError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} is damaged: {error}",
            remedy="Restore it from a backup; nothing else can open it.",
        ) from error


def open_store(settings: KeyStoreSettings, holders: Mapping[str, Loader] | None = None) -> KeyStore:
    """Return the store that a configuration names; CONFIGURATION if there is no such plug-in, or no passphrase.

    `holders` maps kinds to functions that load a plug-in; by default those that are installed.
    """
    if settings.passphrase_from is not None:
        return PassphraseStore(read_passphrase(settings.passphrase_from))
    if settings.kind == FILE:
        return FILES
    known = installed() if holders is None else holders
    if settings.kind not in known:
        there = ", ".join(sorted(known)) or "none"
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the key store {settings.kind!r} is no plug-in that is installed here (there: {there})",
            remedy="Install the package that brings it into this environment, or correct kind under [key_store].",
        )
    return HeldKeys.open(settings.kind, known[settings.kind], settings.options)


def store_of(chosen: KeyStoreSettings | None) -> KeyStore:
    """Return the store that the options of a command name; files if they name none."""
    return open_store(chosen or KeyStoreSettings())


def read_passphrase(source: str) -> bytes:
    """Return the passphrase from a source (see `KeyStoreSettings.passphrase_from`), without its final line break.

    CONFIGURATION if it is not there, empty, or longer than 1024 bytes. A descriptor is read once for the whole process.
    """
    try:
        kind, name = _parts(source)
    except ValueError as error:
        raise CounterfoilError(Code.CONFIGURATION, str(error)) from error
    if kind == "fd":
        return _checked(_from_descriptor(int(name)), source)
    if kind == "credential":
        path = Path(_variable(CREDENTIALS, source)) / name
    elif kind == "env":
        path = Path(_variable(name, source))
    else:
        path = Path(name)
    if kind != "credential":  # systemd sees to its own, which are readable by root and the unit
        check_private(path)
    try:
        with path.open("rb") as file:
            return _checked(file.read(MOST_PASSPHRASE + 3), source)
    except OSError as error:
        raise _absent(source, f"{path}: {error.strerror}") from error


def _parts(source: str) -> tuple[str, str]:
    kind, colon, name = source.partition(":")
    known = bool(colon) and kind in SOURCES and bool(name)
    fits = {
        "fd": name.isascii() and name.isdigit() and len(name) < 7,
        "file": Path(name).is_absolute(),
        "credential": "/" not in name and name not in {".", ".."},
    }
    if not known or not fits.get(kind, True):
        raise ValueError(
            "passphrase_from is fd:NUMBER, file:/ABSOLUTE/PATH, credential:NAME or env:VARIABLE"
        )
    return kind, name


@functools.cache
def _from_descriptor(number: int) -> bytes:
    try:
        with os.fdopen(number, "rb") as file:
            return file.read(MOST_PASSPHRASE + 3)
    except OSError as error:
        raise _absent(f"fd:{number}", str(error.strerror)) from error


def _variable(name: str, source: str) -> str:
    if not (value := os.environ.get(name)):
        raise _absent(source, f"the environment variable {name} is not set")
    return value


def _checked(data: bytes, source: str) -> bytes:
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase or len(passphrase) > MOST_PASSPHRASE:
        problem = "is empty" if not passphrase else f"has more than {MOST_PASSPHRASE} bytes"
        raise _absent(source, f"it {problem}")
    return passphrase


def _absent(source: str, problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFIGURATION,
        f"there is no passphrase in {source}: {problem}",
        remedy="Give it to the process by a descriptor, a private file, or a credential of its systemd unit.",
    )
