"""A folder for an embedded server: short, and traversable by an unprivileged account."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cf-pg-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
