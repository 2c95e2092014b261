"""What the tests here need beside Python: missing, it fails under CI and is skipped with the reason elsewhere."""

import asyncio
import os
from pathlib import Path

import pytest


def need(present: bool, missing: str) -> None:
    """End the test unless a tool is there."""
    if not present and os.environ.get("CI"):
        pytest.fail(missing)
    if not present:
        pytest.skip(missing)


async def run(*command: str | Path, given: bytes = b"", limit_s: float = 60.0) -> tuple[int, str]:
    """Run a program; return its exit status and what it wrote, standard error last."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(limit_s):
            out, errors = await process.communicate(given)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, (out + errors).decode()
