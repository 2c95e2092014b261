"""Runs Alembic and `counterfoil db` as an operator does: as separate processes."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_layer.storage import migrate
from tests.postgres import Database

REPOSITORY = migrate.ini_path().parents[1]

Operator = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Start `alembic …` or `counterfoil db …` with the owner's DSN in the environment."""

    def start(
        program: str,
        *arguments: str,
        database: Database,
        cwd: Path,
        packages: Path = REPOSITORY,
    ) -> subprocess.Popen[str]:
        code = {
            "alembic": "from alembic.config import main; main(prog='alembic')",
            "db": "from audit_layer.commands.database import db; db()",
        }[program]
        environment = {
            **os.environ,
            "PYTHONPATH": str(packages),
            "PYTHONDONTWRITEBYTECODE": "1",
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

    def to_the_end(program: str, *arguments: str, **options: Any) -> str:
        with operator(program, *arguments, **options) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    return to_the_end


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel from a copy, and return the folder that it unpacks to."""
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for package in ("shared", "audit_layer", "migrations"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=unwanted)
    shutil.copy(REPOSITORY / "pyproject.toml", source)
    (source / "README.md").touch()
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(source)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    unpacked = tmp_path_factory.mktemp("site") / "100%d"  # "%" means something to Alembic
    with zipfile.ZipFile(next(source.glob("*.whl"))) as archive:
        archive.extractall(unpacked)
    return unpacked
