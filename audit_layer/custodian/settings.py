"""`custodian.toml`."""

from pathlib import Path

from shared.runtime.config import Settings
from shared.runtime.tls import TlsFiles
from shared.selection.settings import LogSettings


class WorkerSettings(Settings):
    """A worker to whom this custodian releases."""

    name: str
    signing_key: str
    """Hex of the raw Ed25519 public key."""
    hpke_key: str
    """Hex of the raw HPKE public key."""


class CustodianSettings(Settings):
    """One custodian."""

    name: str
    address: str
    keys_folder: Path
    state_file: Path
    """sqlite: releases and reveals."""
    authority: str
    """Hex of the audit authority's public key."""
    tls: TlsFiles
    log: LogSettings
    workers: tuple[WorkerSettings, ...] = ()
