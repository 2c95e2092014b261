"""The tenants that a node serves: a file that is reloaded whenever it changes."""

import logging
from pathlib import Path

from execution_layer.node.settings import TenantsFile
from shared.runtime.config import load
from shared.runtime.errors import CounterfoilError

_log = logging.getLogger(__name__)


class Tenants:
    """Public keys by tenant. A change that cannot be read is logged, and the last good state is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def key_of(self, tenant: str) -> bytes | None:
        """Return a tenant's public key (32 bytes), None for a stranger."""
        self._refresh()
        return self._keys.get(tenant)

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


def _read(path: Path) -> dict[str, bytes]:
    return {name: bytes.fromhex(key) for name, key in load(TenantsFile, path).tenants.items()}


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return a value that changes when the file does; zeros if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
