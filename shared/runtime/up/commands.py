"""Runs the product's own commands, as any script would."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from shared.runtime.errors import Code, CounterfoilError

CLI = (sys.executable, "-m", "shared.runtime")


def environment() -> dict[str, str]:
    """Return the environment of every process: one thread per numeric library unless a process asks for more."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONUNBUFFERED": "1"}


async def run(*arguments: str | Path, program: tuple[str, ...] = CLI) -> str:
    """Run a command to its end and return its standard output; UNAVAILABLE repeats its message."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        said = err.decode("utf-8", "replace").strip().splitlines()
        shown = " ".join(map(str, arguments[:3]))
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"`counterfoil {shown} …` ended with exit code {process.returncode}: {' '.join(said[-6:])}",
            metadata={"exit_code": str(process.returncode)},
        )
    return out.decode("utf-8")


async def json_of(*arguments: str | Path, program: tuple[str, ...] = CLI) -> Any:
    """Run a command and parse what it printed."""
    return json.loads(await run(*arguments, program=program))
