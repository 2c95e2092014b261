"""Crypto-shredding: receipts and orders are stored encrypted, so that a day of a tenant can be made unreadable for good.

The log keeps hashes only, so no proof changes. Each tenant has one data key a day (UTC, by when receipts began); a statement is
encrypted with AES-256-GCM under a key of its own, derived from the data key and the statement's entry, which makes the
encryption deterministic and a nonce unnecessary. Data keys are in the database, wrapped by a key-encryption key in a file that
must not be kept with the database's backups. To erase is to destroy the data key (`audit_layer.trail.erasure`).

Code that writes and reads statements calls only `encrypted` and `decrypted`; without a keeper on the engine, statements are
stored as they were signed.

    encrypted = 0x01 || u64 data key || entry (32 bytes) || ciphertext and tag      (a statement begins with 0xd2)
    wrapped = key id (8 bytes) || nonce (12 bytes) || ciphertext and tag          (AAD: tenant, day)
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from audit_layer.trail.models import DataKeyRow
from shared.codec.hashing import framing, hkdf_expand
from shared.runtime.config import read_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private, write_private

ENCRYPTED: Final = 0x01
"""First byte of an encrypted statement."""
DAY_MS: Final = 86_400_000
KEY_BYTES: Final = 32
MEMORY_S: Final = 60.0
"""How long a process may still open what another has erased."""
MAX_REMEMBERED: Final = 4096
KEY_LOCK: Final = 0x63665F6B656B  # "cf_kek": shared while a data key is made, exclusive while the key-encryption key is replaced
_HEAD: Final = 1 + 8 + 32
_OPTION: Final = "counterfoil_keeper"
_NO_NONCE: Final = bytes(12)  # each key encrypts one statement, always the same


class Item(NamedTuple):
    """A statement to be stored."""

    entry: bytes
    tenant: str
    started: int
    """When the receipt began, ms; its order goes with it."""
    raw: bytes


@dataclass(frozen=True, slots=True)
class Encrypted:
    """The parts of an encrypted statement."""

    key: int
    entry: bytes
    ciphertext: bytes


class Keeper:
    """Wraps and remembers data keys. Safe to use from several threads; one per process."""

    def __init__(self, key_file: Path) -> None:
        self._file = key_file
        self._mutex = threading.Lock()
        self._wrapping = _read(key_file)
        self._known: dict[int, tuple[float, bytes]] = {}

    @property
    def newest(self) -> bytes:
        """Id of the key-encryption key that wraps new data keys."""
        return next(iter(self._wrapping))

    def wrap(self, key: bytes, tenant: str, day: int) -> bytes:
        """Return a data key wrapped under the newest key-encryption key."""
        name, secret = next(iter(self._wrapping.items()))
        nonce = os.urandom(12)
        return name + nonce + AESGCM(secret).encrypt(nonce, key, _binding(tenant, day))

    def unwrap(self, wrapped: bytes, tenant: str, day: int) -> bytes:
        """Return a data key; CONFIGURATION when the file lacks the key that wraps it."""
        name = wrapped[:8]
        if name not in self._wrapping:
            self.reload()
        if name not in self._wrapping:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{self._file} lacks the key {name.hex()} that wraps the data key of {tenant}",
                remedy="Restore the file: without it the statements of that day cannot be read.",
            )
        try:
            return AESGCM(self._wrapping[name]).decrypt(
                wrapped[8:20], wrapped[20:], _binding(tenant, day)
            )
        except InvalidTag as error:
            raise CounterfoilError(Code.CORRUPT, f"a data key of {tenant} was changed") from error

    def reload(self) -> None:
        """Read the file again: another process may have replaced the key-encryption key."""
        self._wrapping = _read(self._file)

    def remembered(self, key: int) -> bytes | None:
        """Return a data key that was looked up recently."""
        with self._mutex:
            found = self._known.get(key)
            return None if found is None or found[0] < time.monotonic() else found[1]

    def remember(self, key: int, secret: bytes) -> bytes:
        """Keep a data key for a short while, and return it."""
        with self._mutex:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = (time.monotonic() + MEMORY_S, secret)
        return secret

    def forget(self) -> None:
        """Forget all data keys."""
        with self._mutex:
            self._known.clear()

    def begin_rotation(self) -> None:
        """Add a new key-encryption key to the file, next to those that wrap existing data keys."""
        self._wrapping = {**_named(os.urandom(KEY_BYTES)), **_read(self._file)}
        _write(self._file, self._wrapping)

    def end_rotation(self) -> None:
        """Destroy all key-encryption keys except the newest: overwrite the file, then replace it."""
        name, secret = next(iter(self._wrapping.items()))
        with self._file.open("r+b") as file:
            file.write(bytes(self._file.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        self._wrapping = {name: secret}
        _write(self._file, self._wrapping)


def create_key_file(path: Path) -> None:
    """Create a key file with one key-encryption key, unless the file exists."""
    create_private(path, (os.urandom(KEY_BYTES).hex() + "\n").encode())


def with_keeper(engine: Engine, key_file: Path | None) -> Engine:
    """Return the engine through which statements are stored encrypted; the same engine without a key file."""
    if key_file is None:
        return engine
    return engine.execution_options(**{_OPTION: Keeper(key_file)})


def keeper_of(db: Connection | Session) -> Keeper | None:
    """Return the keeper of the engine behind a connection."""
    connection = db.connection() if isinstance(db, Session) else db
    keeper = connection.get_execution_options().get(_OPTION)
    return keeper if isinstance(keeper, Keeper) else None


def encrypted(db: Connection | Session, items: Sequence[Item]) -> list[bytes]:
    """Return the stored form of statements, in their order, within the transaction that stores them."""
    keeper = keeper_of(db)
    if keeper is None or not items:
        return [item.raw for item in items]
    days = {(item.tenant, item.started // DAY_MS * DAY_MS) for item in items}
    keys = _keys_for(db, keeper, days)
    return [_encrypt(*keys[item.tenant, item.started // DAY_MS * DAY_MS], item) for item in items]


def decrypted(db: Connection | Session, stored: bytes) -> bytes:
    """Return a statement as it was signed, from its stored form.

    Errors: ERASED with the erasure's number in `metadata`; CONFIGURATION without the key file; CORRUPT.
    """
    parts = parse_encrypted(stored)
    if parts is None:
        return stored
    keeper = keeper_of(db)
    if keeper is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "statements are stored encrypted, and the configuration names no erasure_key_file",
        )
    secret = keeper.remembered(parts.key)
    if secret is None:
        secret = keeper.remember(parts.key, _lookup(db, keeper, parts.key))
    try:
        return _cipher(secret, parts.entry).decrypt(_NO_NONCE, parts.ciphertext, parts.entry)
    except InvalidTag as error:
        raise CounterfoilError(
            Code.CORRUPT, f"the stored statement {parts.entry.hex()[:16]}… was changed"
        ) from error


def parse_encrypted(stored: bytes) -> Encrypted | None:
    """Return the parts of an encrypted statement, or None for one stored as it was signed."""
    if stored[:1] != bytes([ENCRYPTED]):
        return None
    if len(stored) < _HEAD + 16:
        raise CounterfoilError(Code.CORRUPT, "an encrypted statement is cut off")
    return Encrypted(int.from_bytes(stored[1:9], "big"), stored[9:_HEAD], stored[_HEAD:])


def _encrypt(key: int, secret: bytes, item: Item) -> bytes:
    ciphertext = _cipher(secret, item.entry).encrypt(_NO_NONCE, item.raw, item.entry)
    return bytes([ENCRYPTED]) + key.to_bytes(8, "big") + item.entry + ciphertext


def _cipher(secret: bytes, entry: bytes) -> AESGCM:
    return AESGCM(hkdf_expand(secret, "statement-at-rest", KEY_BYTES, entry))


def _binding(tenant: str, day: int) -> bytes:
    return framing("data-key", tenant.encode(), day.to_bytes(8, "big"))


def _keys_for(
    db: Connection | Session, keeper: Keeper, days: Iterable[tuple[str, int]]
) -> Mapping[tuple[str, int], tuple[int, bytes]]:
    """Return (number, data key) of each tenant's day; create missing keys.

    The rows stay locked until the transaction ends, so that an erasure waits for what is being written under its key.
    """
    wanted = sorted(days)  # one order for all writers: no deadlock
    found = _locked(db, keeper, wanted)
    missing = [day for day in wanted if day not in found]
    if missing:
        db.execute(select(func.pg_advisory_xact_lock_shared(KEY_LOCK)))
        keeper.reload()
        statement = upsert(DataKeyRow).on_conflict_do_nothing(
            index_elements=[DataKeyRow.tenant, DataKeyRow.day],
            index_where=DataKeyRow.erasure.is_(None),
        )
        values = [
            {
                "tenant": tenant,
                "day": day,
                "wrapped": keeper.wrap(os.urandom(KEY_BYTES), tenant, day),
            }
            for tenant, day in missing
        ]
        db.execute(statement, values)
        found |= _locked(db, keeper, missing)
    return found


def _locked(
    db: Connection | Session, keeper: Keeper, days: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, bytes]]:
    rows = db.execute(
        select(DataKeyRow.id, DataKeyRow.tenant, DataKeyRow.day, DataKeyRow.wrapped)
        .where(DataKeyRow.erasure.is_(None), tuple_(DataKeyRow.tenant, DataKeyRow.day).in_(days))
        .order_by(DataKeyRow.id)
        .with_for_update(read=True, key_share=True)
    ).all()
    result: dict[tuple[str, int], tuple[int, bytes]] = {}
    for number, tenant, day, wrapped in rows:
        secret = keeper.remembered(number)
        if secret is None:
            assert wrapped is not None  # a constraint: only an erasure removes it
            secret = keeper.remember(number, keeper.unwrap(wrapped, tenant, day))
        result[tenant, day] = (number, secret)
    return result


def _lookup(db: Connection | Session, keeper: Keeper, key: int) -> bytes:
    row = db.execute(
        select(DataKeyRow.tenant, DataKeyRow.day, DataKeyRow.wrapped, DataKeyRow.erasure).where(
            DataKeyRow.id == key
        )
    ).one_or_none()
    if row is None:
        raise CounterfoilError(Code.CORRUPT, f"the data key {key} of a statement is missing")
    tenant, day, wrapped, erasure = row
    if wrapped is None:
        raise CounterfoilError(
            Code.ERASED,
            "the statement was erased; its log entry and all proofs over it remain",
            metadata={"erasure": str(erasure)},
        )
    return keeper.unwrap(wrapped, tenant, day)


def _named(secret: bytes) -> dict[bytes, bytes]:
    return {sha256(secret).digest()[:8]: secret}


def _read(path: Path) -> dict[bytes, bytes]:
    """Return the file's keys by their ids, the newest first; CONFIGURATION when it is not a key file."""
    keys: dict[bytes, bytes] = {}
    try:
        for line in read_secret(path).split("\n"):
            keys |= _named(bytes.fromhex(line))
    except ValueError:
        keys = {}
    if not keys or any(len(secret) != KEY_BYTES for secret in keys.values()):
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} does not hold keys of 64 hexadecimal digits, one per line"
        )
    return keys


def _write(path: Path, keys: Mapping[bytes, bytes]) -> None:
    write_private(path, "".join(f"{secret.hex()}\n" for secret in keys.values()).encode())
