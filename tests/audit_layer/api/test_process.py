"""The server as a process: its ready file, an orderly end, and what it refuses to start with."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit_layer.wiring.audit_server import serve_audit
from audit_layer.wiring.audit_settings import load_settings
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.net import bind
from shared.runtime.tls import LocalCA
from shared.translog.notes import SignatureType, Signer
from tests.audit_layer.served import command, initialise, witness
from tests.postgres import Database

SERVE = (
    "import sys; from shared.runtime.cli import run; from audit_layer.commands.audit import audit;"
    " sys.exit(run(audit, sys.argv[1:]))"
)


def trusting(
    folder: Path, database: Database, address: str = "127.0.0.1:1", vkeys: Sequence[str] = ()
) -> Path:
    tls = LocalCA.load_or_create(folder / "ca").issue("server")
    known = initialise(folder / "audit", database, tls)
    given = [argument for vkey in vkeys for argument in ("--vkey", vkey)]
    if given:
        command("audit", "trust", "--config", known["config"], "--name", "witness",
                "--url", f"https://{address}", *given)  # fmt: skip
    return Path(known["config"])


def start(arguments: list[str], ready: Path) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start the server; return it with the contents of its ready file."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments])
    limit = time.monotonic() + 60
    while not ready.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    if not ready.exists():
        process.kill()
        process.wait()
    return process, json.loads(ready.read_text())


async def test_the_process_says_when_it_is_ready_and_ends_when_it_is_told(
    database: Database, tmp_path: Path
):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("server")
    known = initialise(tmp_path / "audit", database, tls)
    async with witness(tmp_path, tls, known["log_vkeys"]) as (address, vkeys):
        config = trusting(tmp_path, database, address, vkeys)
        ready = tmp_path / "ready.json"
        arguments = ["serve", "--config", str(config), "--ready-file", str(ready)]
        process, addresses = await asyncio.to_thread(start, arguments, ready)
        try:
            assert set(addresses) == {"grpc", "party", "http"}
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


async def test_what_cannot_serve_says_why(database: Database, tmp_path: Path):
    config = trusting(tmp_path, database)
    with pytest.raises(CounterfoilError, match="names no witness") as unwitnessed:
        await serve_audit(load_settings(config), None, asyncio.Event())
    assert unwitnessed.value.code is Code.CONFIGURATION


@pytest.mark.parametrize("place", ["grpc_address", "http_address"])
async def test_a_port_in_use_is_named(database: Database, tmp_path: Path, place: str):
    vkey = Signer.generate("witness", SignatureType.COSIGNATURE_ED25519).verifier.vkey()
    settings = load_settings(trusting(tmp_path, database, vkeys=[vkey]))
    with bind("127.0.0.1:0") as taken:
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CounterfoilError, match=address) as refused:
            await serve_audit(settings.model_copy(update={place: address}), None, asyncio.Event())
    assert refused.value.code is Code.CONFIGURATION


async def test_a_database_that_was_never_migrated_is_refused(
    empty_database: Database, tmp_path: Path
):
    vkey = Signer.generate("witness", SignatureType.COSIGNATURE_ED25519).verifier.vkey()
    settings = load_settings(trusting(tmp_path, empty_database, vkeys=[vkey]))
    with pytest.raises(CounterfoilError, match="lacks the tables") as refused:
        await serve_audit(settings, None, asyncio.Event())
    assert refused.value.remedy == "Run: counterfoil db upgrade"
