"""Running Alembic and `counterfoil db` as an operator does: as processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_layer.storage import migrate
from tests.postgres import Database

REPOSITORY = migrate.ini_path().parents[1]

Operator = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Start `alembic …` or `counterfoil db …` with the owner's DSN in the environment."""

    def start(
        program: str, *arguments: str, database: Database, cwd: Path
    ) -> subprocess.Popen[str]:
        code = {
            "alembic": "from alembic.config import main; main(prog='alembic')",
            "db": "from audit_layer.storage.cli import db; db()",
        }[program]
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "COUNTERFOIL_DATABASE_DSN_FILE": str(database.dsn_file("owner")),
        }
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def run(operator: Operator) -> Callable[..., str]:
    """Run it to its end, expect success, and return what it printed."""

    def to_the_end(program: str, *arguments: str, database: Database, cwd: Path) -> str:
        with operator(program, *arguments, database=database, cwd=cwd) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    return to_the_end
