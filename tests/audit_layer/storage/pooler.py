"""PgBouncer in transaction mode in front of a database, as operators place it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_layer.storage.dsn import make_dsn, parse_dsn
from audit_layer.storage.unprivileged import Account

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pooler(dsn: str, folder: Path, *, ignore_options: bool) -> Iterator[str]:
    """Run PgBouncer for one database; yield the DSN that leads through it."""
    if PROGRAM is None:
        pytest.fail("pgbouncer is not installed: apt-get install pgbouncer")
    parts = parse_dsn(dsn)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    users = folder / "users.txt"
    users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host={parts['host']} port={parts['port']}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
        + ("ignore_startup_parameters = options\n" if ignore_options else "")
    )
    account = Account.choose()  # it refuses to run as root, as Postgres does
    command = [PROGRAM, "-u", account.name] if account.other else [PROGRAM]
    for path in (users, config):
        path.chmod(0o644)
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([*command, str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        yield make_dsn(parts["user"], "x", parts["dbname"], host="127.0.0.1", port=port)
    finally:
        process.terminate()
        process.wait()
