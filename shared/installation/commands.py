"""Runs the product's own commands, as any script would, and makes sure that none outlives this process."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from shared.runtime import process_guard
from shared.runtime.cli import EXIT_CODES
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.supervisor import start_guarded

CLI: Final = (sys.executable, "-m", "shared.runtime")
DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before a command is rerun: a supervised process that died is back by then."""
_AWAY: Final = EXIT_CODES[Code.UNAVAILABLE]
LINE_LIMIT: Final = 1 << 22
"""Longest line that a command may print, in bytes."""

Say = Callable[[str, str], None]
"""Called with (process or step, what happened)."""


def environment() -> dict[str, str]:
    """Return every process's environment: one thread per numeric library unless a process requests more."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONUNBUFFERED": "1"}


@contextlib.asynccontextmanager
async def started(command: tuple[str, ...]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a guarded command with its output piped; it is gone when the block ends, however it ends."""
    process, lifeline = await start_guarded(
        process_guard.command_line(command, kill_after_s=5.0),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        limit=LINE_LIMIT,
    )
    try:
        yield process
    finally:
        os.close(lifeline)
        await process.wait()


class Commands:
    """Runs commands to completion. One that was killed, or that found a service unavailable, is rerun."""

    def __init__(self, say: Say) -> None:
        self.say = say

    async def run(self, *arguments: str | Path, program: tuple[str, ...] = CLI) -> str:
        """Return a command's output. Only for commands that may be run twice.

        Raises:
            CounterfoilError: UNAVAILABLE with the command's own message if it failed.
        """
        shown = " ".join(map(str, arguments[:3]))
        for delay in (*DELAYS_S, None):
            code, out, complaint = await self._once(*arguments, program=program)
            if code == 0:
                return out
            if delay is None or not (code < 0 or code == _AWAY):
                break
            how = f"died by signal {-code}" if code < 0 else complaint
            self.say("command", f"`{shown} …` {how}; running it again")
            await asyncio.sleep(delay)
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"`counterfoil {shown} …` ended with exit code {code}: {complaint}",
            metadata={"exit_code": str(code)},
        )

    async def json(self, *arguments: str | Path, program: tuple[str, ...] = CLI) -> Any:
        """Return a command's output, parsed."""
        return json.loads(await self.run(*arguments, program=program))

    async def _once(self, *arguments: str | Path, program: tuple[str, ...]) -> tuple[int, str, str]:
        """Return exit code, standard output and the end of standard error (or of the output if that is empty)."""
        async with started((*program, *map(str, arguments))) as process:
            out, complaint = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode("utf-8"), last_words(complaint) or last_words(out)


def last_words(complaint: bytes) -> str:
    """Return the end of what a command wrote to standard error, on one line."""
    return " ".join(complaint.decode("utf-8", "replace").strip().splitlines()[-6:])[-600:]
