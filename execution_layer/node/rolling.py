"""Asking a running node for a new key bundle, from outside."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from execution_layer.node.identity import request_roll
from execution_layer.node.settings import NodeSettings
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import lock_holder
from shared.statements.cose import entry_of, read_as
from shared.statements.keys import KeyBundle

_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rolled:
    """A roll of which clients are told: the entry of the new key bundle, and entry and end (ms) of the one it replaces."""

    new: bytes
    old: bytes
    old_ends: int


def roll_node(settings: NodeSettings, *, timeout_s: float) -> Rolled:
    """Have the running node make a new key bundle; return once it is witnessed, so that clients are told of it.

    NOT_FOUND if the node is not running, DEADLINE if it takes longer: the node goes on with it by itself.
    """
    if lock_holder(settings.spool) is None:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"{settings.issuer} is not running on this machine",
            remedy="Start it: it makes a new key bundle whenever it needs one.",
        )
    known = dict(_bundles(settings.keys))
    request_roll(settings.keys)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        time.sleep(_POLL_S)
        for new, _ in _bundles(settings.keys, witnessed=True):
            if new not in known:
                old = max(known, key=lambda entry: known[entry].not_before)
                return Rolled(new, old, known[old].not_after)
    raise CounterfoilError(
        Code.DEADLINE,
        f"{settings.issuer} has no new witnessed key bundle after {timeout_s:g} s",
        remedy="It goes on trying, and serves under the old one meanwhile. `counterfoil node status` shows its state; check"
        " that it and the audit server are running.",
    )


def _bundles(folder: Path, *, witnessed: bool = False) -> Iterator[tuple[bytes, KeyBundle]]:
    """Yield the key bundles in a running node's key folder, with their entries; there is always one."""
    for path in folder.glob("*.tlog-proof" if witnessed else "*.bundle"):
        with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
            raw = path.with_suffix(".bundle").read_bytes()
            yield entry_of(raw), read_as(KeyBundle, raw)
