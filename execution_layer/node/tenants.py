"""The tenants that a node serves: a file that is reloaded whenever it changes, and what the log says of their keys."""

import logging
from collections.abc import Collection
from pathlib import Path

from execution_layer.node.settings import TenantsFile
from shared.parties.identity_book import IdentityBook
from shared.runtime.config import load
from shared.runtime.errors import CounterfoilError
from shared.statements.identities import Holder
from shared.verification.trust import with_key_id

_log = logging.getLogger(__name__)


class Tenants:
    """Public keys by tenant. A change that cannot be read is logged, and the last good state is kept."""

    def __init__(self, path: Path, book: IdentityBook | None = None) -> None:
        """`book` is what is known of the keys that tenants have added or ended; without it, pinned keys are all there is."""
        self._book = book
        self._path = path
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def names(self) -> list[str]:
        """Return all tenants."""
        self._refresh()
        return sorted(self._keys)

    def live(self, tenant: str) -> Collection[bytes] | None:
        """Return the keys that a tenant has now; None for a stranger."""
        self._refresh()
        pinned = self._keys.get(tenant)
        return None if pinned is None else self._live(tenant, pinned)

    def key_of(self, tenant: str, kid: bytes) -> bytes | None:
        """Return a tenant's live key (32 bytes) with this key id, or else another of its live keys; None for a stranger."""
        live = self.live(tenant)
        return None if live is None else with_key_id(live, kid) or min(live)

    def has_key(self, tenant: str, kid: bytes) -> bool:
        """Return whether a key id is that of a live key of a tenant, or the tenant is a stranger."""
        pinned = self._keys.get(tenant)
        return pinned is None or with_key_id(self._live(tenant, pinned), kid) is not None

    def _live(self, tenant: str, pinned: tuple[bytes, ...]) -> Collection[bytes]:
        if self._book is None:
            return pinned
        return self._book.history(Holder.TENANT, tenant, pinned).live

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(self._path)
        except CounterfoilError as error:
            _log.error("the changed tenants file cannot be used: %s", error)
            return
        _log.info("tenants were reloaded", extra={"tenants": len(self._keys)})


def _read(path: Path) -> dict[str, tuple[bytes, ...]]:
    found = {}
    for name, keys in load(TenantsFile, path).tenants.items():
        found[name] = tuple(
            bytes.fromhex(key) for key in ((keys,) if isinstance(keys, str) else keys)
        )
    return found


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return a value that changes when the file does; zeros if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
