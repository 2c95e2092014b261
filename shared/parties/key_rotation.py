"""Rotating an identity key that is in a file: every step can be killed and run again, and no key is lost before its time.

Beside the key file NAME.pem: NAME.next.pem is the key that will follow, NAME.next.cose the statement that adds it, NAME-<key
id>.pem an earlier private key that has not been ended, and NAME.keys the public keys so far, one a line, oldest first.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.codec.moment import now_ms
from shared.parties.identity_log import IdentityLog
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.keys import (
    FILES,
    KeyStore,
    Signer,
    key_id,
    load_ed25519,
    load_or_create_ed25519,
    public_bytes,
    sync_folder,
    write_atomic,
    write_private,
)
from shared.statements.cose import open_as, sign
from shared.statements.identities import (
    Holder,
    IdentityKey,
    IdentityKeyEnd,
    identity,
    sign_identity_key,
)
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.identities import Logged, key_history

SHORT: Final = 16
"""Digits of a key id in a file's name."""


@dataclass(frozen=True, slots=True)
class Owner:
    """An identity whose current key is in a file."""

    role: Holder
    name: str
    file: Path


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that the log has: the public keys, and the index of the statement."""

    old: bytes
    new: bytes
    index: int


def rotate(
    owner: Owner,
    log: IdentityLog,
    *,
    timeout_s: float,
    store: KeyStore = FILES,
) -> Rotated:
    """Add a new key to the identity and make the key file hold it, once the log shows that to everybody.

    The old key stays live, and beside the new one, until it is ended. A rotation that was interrupted is carried on.
    """
    files = _Files(owner.file)
    if files.statement.exists() and not files.next.exists():  # killed at the very end
        return _finished(owner, files, log, load_ed25519(owner.file, store))
    old, new = load_ed25519(owner.file, store), load_or_create_ed25519(files.next, store)
    fault_point("rotation.key-made")
    statement = _statement(owner, files, old, new)
    fault_point("rotation.signed")
    try:
        index = log.submit(statement)
    except CounterfoilError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        files.statement.unlink()  # it was signed too long ago; nobody has taken it in
        statement = _statement(owner, files, old, new)
        index = log.submit(statement)
    fault_point("rotation.logged")
    log.until_witnessed(statement, timeout_s)
    files.remember(public_bytes(old), public_bytes(new))
    with contextlib.suppress(FileExistsError):
        os.link(owner.file, files.kept(public_bytes(old)))
    fault_point("rotation.kept")
    files.next.replace(owner.file)
    sync_folder(owner.file.parent)
    fault_point("rotation.switched")
    files.statement.unlink(missing_ok=True)
    return Rotated(public_bytes(old), public_bytes(new), index)


def end(owner: Owner, log: IdentityLog, key: bytes, *, reason: str, store: KeyStore = FILES) -> int:
    """End one of the identity's keys, and remove its private half if it is beside the key file; return the log's index."""
    current = load_ed25519(owner.file, store)
    if key == public_bytes(current):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{owner.file} holds this key, and nothing could be signed any more",
            remedy="Run `rotate` first, then end the old key.",
        )
    value = IdentityKeyEnd(owner.role, owner.name, key, now_ms(), reason)
    index = log.submit(sign(value, key=current, issuer=owner.name))
    _Files(owner.file).kept(key).unlink(missing_ok=True)
    return index


def known_keys(file: Path, current: Signer) -> tuple[bytes, ...]:
    """Return the public keys that an identity had in this file, oldest first; the last is the current one.

    CONFIGURATION if the list beside the file is damaged.
    """
    own, files = public_bytes(current), _Files(file)
    return (*(key for key in files.remembered() if key != own), own)


def listing(
    owner: Owner, log: IdentityLog, *, store: KeyStore = FILES
) -> list[dict[str, str | int]]:
    """Return the identity's keys for people, oldest first: as its own files begin, and as the audit server shows the log."""
    current = load_ed25519(owner.file, store)
    own = known_keys(owner.file, current)
    shown = [
        Logged(parse_tlog_proof(proof).index, raw)
        for raw, proof in log.shown([identity(owner.role, owner.name)])
    ]
    history = key_history(owner.role, owner.name, own[:1], shown)
    contested = history.contested()
    rows = []
    for life in history.lives:
        row: dict[str, str | int] = {
            "key": life.key.hex(),
            "state": "live" if life.ended is None else "ended",
            "here": "current" if life.key == own[-1] else "earlier" if life.key in own else "-",
            "added": "pinned" if life.added is None else life.added,
            "ended": "-" if life.ended is None else life.ended,
            "reason": life.reason or "-",
            "contested": "yes" if life in contested else "-",
        }
        rows.append(row)
    return rows


class _Files:
    """What is beside a key file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.next = file.with_name(f"{file.stem}.next{file.suffix}")
        self.statement = file.with_name(f"{file.stem}.next.cose")
        self._known = file.with_name(f"{file.stem}.keys")

    def kept(self, key: bytes) -> Path:
        name = f"{self._file.stem}-{key_id(key).hex()[:SHORT]}{self._file.suffix}"
        return self._file.with_name(name)

    def remembered(self) -> list[bytes]:
        try:
            return [bytes.fromhex(line) for line in self._known.read_text("ascii").split()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"{self._known} does not list public keys, one a line in hex"
            ) from error

    def remember(self, *keys: bytes) -> None:
        known = dict.fromkeys([*self.remembered(), *keys])
        write_atomic(self._known, "".join(f"{key.hex()}\n" for key in known).encode())


def _finished(owner: Owner, files: _Files, log: IdentityLog, current: Signer) -> Rotated:
    """Complete a rotation whose key file holds the new key already."""
    raw = files.statement.read_bytes()
    old = files.remembered()[-2]
    value, _ = open_as(IdentityKey, raw, old)
    if value.key != public_bytes(current):
        raise CounterfoilError(
            Code.CONFLICT,
            f"{files.statement} does not add the key in {owner.file}",
            remedy="Remove it, if the log has what it says or nobody needs it.",
        )
    index = log.submit(raw)
    files.statement.unlink()
    return Rotated(old, value.key, index)


def _statement(owner: Owner, files: _Files, old: Signer, new: Signer) -> bytes:
    """Return the statement that adds the new key: one that was signed before, or a fresh one, which is on disk first."""
    with contextlib.suppress(FileNotFoundError, CounterfoilError):
        raw = files.statement.read_bytes()
        value, _ = open_as(IdentityKey, raw, public_bytes(old))
        if value.key == public_bytes(new):
            return raw
    raw = sign_identity_key(owner.role, owner.name, new=new, by=old, now_ms=now_ms())
    write_private(files.statement, raw)
    return raw
