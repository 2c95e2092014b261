"""Keys and other small files on disk: written completely or not at all, and private where they must be.

Where a party's keys are is for its key store to know (`KeyStore`); here is the simplest, files that only their owner reads.
The others are in `shared.runtime.key_store`.
"""

import hashlib
import os
import secrets
import stat
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared.runtime.age import is_sealed
from shared.runtime.config import check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import command_line


class Signer(Protocol):
    """An Ed25519 key that signs, wherever its private half is: in this process, or with whoever keeps it."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature (RFC 8032), 64 bytes."""

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""


class Algorithm(StrEnum):
    """What a party's key can do."""

    ED25519 = "ed25519"
    MLDSA44 = "ml-dsa-44"
    HPKE = "mlkem768-x25519"
    """Opens what is sealed by HPKE in the suite of protocol §1."""


class HeldKey(Signer, Protocol):
    """A private key that its holder uses and never hands out."""

    @property
    def public_bytes(self) -> bytes:
        """The raw public key."""

    def open(self, info: bytes, data: bytes, /) -> bytes:
        """Return what is sealed by HPKE for this key; UNREADABLE whatever the failure."""


class KeyStore(Protocol):
    """Where a party's keys are. Each has a path: of the file that holds it, or that says who does."""

    @property
    def kind(self) -> str:
        """The name of this kind of store."""

    def secret(self, path: Path) -> bytes:
        """Return the content of a key file; CONFIGURATION says why there is none, and what to do."""

    def create_secret(self, path: Path, data: bytes) -> bool:
        """Store a key file unless there is one; return whether it was stored. If two race, one wins."""

    def held(self, path: Path, algorithm: Algorithm, *, create: bool = False) -> HeldKey | None:
        """Return the key to which `path` refers, made at first use if `create`; None if this store keeps keys in files."""


class FileStore:
    """Keys are in files that only their owner can read."""

    kind = "file"

    def secret(self, path: Path) -> bytes:
        """Return the content of a key file."""
        data = read_key_file(path)
        if is_sealed(data):
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{path} has a passphrase, and the configuration does not say where that is",
                remedy='Set kind = "passphrase" and passphrase_from under [key_store], or take the passphrase off: '
                + command_line("counterfoil", "key", "unprotect", path),
            )
        return data

    def create_secret(self, path: Path, data: bytes) -> bool:
        """Store a key file unless there is one."""
        private_folder(path.parent)
        return create_private(path, data)

    def held(self, path: Path, algorithm: Algorithm, *, create: bool = False) -> None:
        """No key is held by anybody else."""


FILES: Final[KeyStore] = FileStore()


def read_key_file(path: Path) -> bytes:
    """Return the bytes of a key file of at most 64 KiB; CONFIGURATION if it is absent, open to others or cannot be read."""
    check_private(path)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} cannot be read: {error.strerror}"
        ) from error
    if len(data) > MOST_KEY_BYTES:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is too long for a key file")
    return data


MOST_KEY_BYTES: Final = 65_536
PRIVATE_FILE: Final = 0o600
PUBLIC_FILE: Final = 0o644
"""For what is meant for everybody on the machine: certificates, the published log, signed price lists."""
PRIVATE_FOLDER: Final = 0o700
PUBLIC_FOLDER: Final = 0o755
PASSABLE_FOLDER: Final = 0o711
"""Others can reach what is in it by name, if that permits it, and see no names."""


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner can enter, with its parents; return it."""
    return make_folder(path, PRIVATE_FOLDER)


def make_folder(path: Path, mode: int) -> Path:
    """Create a folder and those of its parents that are missing, all with this mode whatever the umask is; return it.
    One that exists keeps its mode.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            try:
                folder.mkdir(mode & PRIVATE_FOLDER)
                folder.chmod(mode)
            except FileExistsError:
                if not folder.is_dir():
                    raise
    return path


def write_atomic(path: Path, data: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` with `data` atomically: readers, even after a crash, see the old or the new file, never a part.
    When this returns, the new file and its name are on disk. Unless `mode` says otherwise, only its owner can read it.
    """
    fresh = _write_beside(path, data, mode)
    try:
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_result(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file that a user asked for, as `write_atomic` does; CONFIGURATION says why it cannot be written.
    A link is followed; anything other than a file (a device, a pipe) is not replaced. Its mode: see `result_mode`.
    """
    real = Path(os.path.realpath(path))
    try:
        if not real.exists() or real.is_file():
            return write_atomic(real, data, mode=result_mode(real, mode))
    except OSError as error:
        raise unwritable(path, error) from error
    raise unwritable(path)


def result_mode(path: Path, mode: int | None) -> int:
    """Return the mode of a file that a user asked for: the one given, or that of the file which it replaces, whose owner may have
    opened it to others, or else private.
    """
    if mode is not None:
        return mode
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return PRIVATE_FILE


def unwritable(path: Path, error: OSError | None = None) -> CounterfoilError:
    """Return the error that a file which a user asked for cannot be written; without `error`, that it is no file."""
    reason = "it exists and is not a file" if error is None else error.strerror
    return CounterfoilError(
        Code.CONFIGURATION,
        f"{path} cannot be written: {reason}",
        remedy="Nothing was written. Name a file in a folder that you may write to.",
    )


def write_private(path: Path, data: bytes) -> None:
    """Write as `write_atomic` does, readable only by the owner (0600)."""
    write_atomic(path, data, mode=PRIVATE_FILE)


def append_private(path: Path) -> BinaryIO:
    """Open a file to append to it, unbuffered; one that is new is its owner's alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    return os.fdopen(descriptor, "ab", buffering=0)


def create_private(path: Path, data: bytes) -> bool:
    """Write a private file unless `path` exists; return whether it was written. If two race, one wins."""
    fresh = _write_beside(path, data, PRIVATE_FILE)
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def load_or_create_ed25519(path: Path, store: KeyStore = FILES) -> Signer:
    """Return the key at `path`, creating it on first use; two concurrent processes get the same key."""
    if (held := store.held(path, Algorithm.ED25519, create=True)) is not None:
        return held
    if not path.exists():
        store.create_secret(path, private_pem(Ed25519PrivateKey.generate()))
    return load_ed25519(path, store)


def load_ed25519(path: Path, store: KeyStore = FILES) -> Signer:
    """Return the Ed25519 private key at `path`; CONFIGURATION if it is absent, open to others or not a key."""
    if (held := store.held(path, Algorithm.ED25519)) is not None:
        return held
    try:
        key = load_pem_private_key(store.secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} is not an unencrypted private key in PEM form"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CounterfoilError(Code.CONFIGURATION, f"{path} does not hold an Ed25519 key")
    return key


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_bytes(key: Signer | Ed25519PublicKey) -> bytes:
    """Return the 32 raw bytes of the public key (RFC 8032)."""
    public = key if isinstance(key, Ed25519PublicKey) else key.public_key()
    return public.public_bytes_raw()


def public_key(raw: bytes) -> Ed25519PublicKey:
    """Return the public key of 32 raw bytes; MALFORMED for anything else."""
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise CounterfoilError(
            Code.MALFORMED, f"an Ed25519 public key is 32 bytes long, not {len(raw)}"
        ) from error


def key_id(key: Signer | Ed25519PublicKey | bytes) -> bytes:
    """Return the SHA-256 of the raw public key (protocol §1)."""
    return hashlib.sha256(key if isinstance(key, bytes) else public_bytes(key)).digest()


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return fresh


def sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
