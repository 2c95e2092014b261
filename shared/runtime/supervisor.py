"""Start a set of processes, keep them up, and leave nothing behind.

Every process runs under a guard (`shared.runtime.process_guard`), which ends it when this process ends,
however that happens. The supervisor holds the write end of each guard's lifeline; closing it stops the
process.

Guarantees: processes start in dependency order, in parallel where possible; a process that dies is
reported and, if its specification says so, restarted with growing delays and the same command, so
it keeps its ports; `stop` ends everything in reverse order and returns when all of it is gone.
Standard library only.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from shared.runtime import process_guard
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import append_private, private_folder

POLL_S: Final = 0.02
FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
STEADY_S: Final = 30.0
"""A process that stayed up this long is restarted with the first delay."""
START_ATTEMPTS: Final = 3
"""How often a process may exit of its own accord before it was ever ready; a signal does not count."""
LOG_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A log above this size is renamed to `NAME.1` when its process starts."""

OnEvent = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process. It is ready when `ready_file` has content and `ready_check` says so, if given."""

    name: str
    command: Sequence[str]
    log_file: Path
    """Receives standard output and error; appended to."""
    env: Mapping[str, str] | None = None
    """Added to this process's environment."""
    cwd: Path | None = None
    after: Sequence[str] = ()
    """Names of processes that must be ready before, and are stopped after, this one."""
    ready_file: Path | None = None
    """Removed before each start; the process writes it atomically once it serves."""
    ready_check: Callable[[], Awaitable[bool]] | None = None
    ready_timeout_s: float = 60.0
    restart: bool = True
    stop_signal: signal.Signals = signal.SIGTERM
    kill_after_s: float = 10.0

    @property
    def pid_file(self) -> Path:
        """Where the guard writes the pid of the process itself."""
        return self.log_file.with_name(f"{self.name}.pid")


@dataclass(slots=True)
class _Running:
    """A process under supervision; `guard` and `lifeline` change with every start."""

    spec: ProcessSpec
    guard: asyncio.subprocess.Process | None = None
    lifeline: int | None = None
    started_at: float = 0.0
    stopping: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None

    def let_go(self) -> None:
        """Close the lifeline: the guard stops the process."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None


class Supervisor:
    """Keeps processes up. Use it as an async context manager, so that `stop` runs on every way out.

    `on_event(name, text)` is called for everything a person may want to see: starting, ready, died,
    restarting, stopped. It is called from the event loop and must not block. The guards, not the processes
    they guard, keep the descriptors `inherited` open: a lock among them is released only when all is gone.
    """

    def __init__(
        self,
        on_event: OnEvent = lambda _name, _text: None,
        *,
        inherited: Sequence[int] = (),
    ) -> None:
        self._on_event = on_event
        self._inherited = tuple(inherited)
        self._running: dict[str, _Running] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Start processes and return when all are ready. May be called again with more.

        Raises:
            CounterfoilError: CONFIGURATION for a duplicate name or an unknown or circular
                dependency; UNAVAILABLE if a process ends or stays silent before it is ready; its
                log's last lines are in the detail. What was started keeps running until `stop`.
        """
        _check_order(specs, self._running.keys())
        for spec in specs:
            self._running[spec.name] = _Running(spec)
        async with _first_error_only(), asyncio.TaskGroup() as group:
            for spec in specs:
                group.create_task(self._bring_up(self._running[spec.name]))

    async def run(self, spec: ProcessSpec, *, timeout_s: float = 120.0) -> None:
        """Run a guarded command once, to completion (a migration, an `init`).

        Raises:
            CounterfoilError: UNAVAILABLE if it fails or takes longer than `timeout_s`.
        """
        once = _Running(spec)
        self._on_event(spec.name, "running")
        process = await self._spawn(once)
        try:
            code = await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError as error:
            raise _failure(spec, f"did not end within {timeout_s:g} s") from error
        finally:
            await self._end(once)
        if code != 0:
            raise _failure(spec, _how_it_ended(code))
        self._on_event(spec.name, f"done in {time.monotonic() - once.started_at:.1f} s")

    async def stop(self) -> None:
        """Stop everything, dependants first, and return when nothing is left. Idempotent."""
        for running in self._running.values():
            running.stopping = True
        while self._running:
            needed = {name for running in self._running.values() for name in running.spec.after}
            leaves = [item for name, item in self._running.items() if name not in needed]
            await asyncio.gather(*(self._stop_one(running) for running in leaves))
            for running in leaves:
                del self._running[running.spec.name]

    async def restart(self, name: str) -> None:
        """Stop one process and start it again; return when it is ready.

        Raises:
            CounterfoilError: NOT_FOUND for a name that is not supervised; otherwise as `start`.
        """
        running = self._find(name)
        running.stopping = True
        await self._stop_one(running)
        await self.bring_back(name)

    async def take_down(self, name: str) -> None:
        """Kill one process (SIGKILL: nothing of it runs any more) and leave it so until `bring_back`.

        Raises:
            CounterfoilError: NOT_FOUND for a name that is not supervised or not running.
        """
        running = self._find(name)
        running.stopping = True
        with contextlib.suppress(ProcessLookupError):  # it died by itself a moment ago
            os.kill(self.pid(name), signal.SIGKILL)
        await self._stop_one(running)

    async def bring_back(self, name: str) -> None:
        """Start a process that was taken down; return when it is ready. Errors as of `start`."""
        running = self._find(name)
        running.stopping = False
        await self._bring_up(running)

    def pid(self, name: str) -> int:
        """Return the pid of the process itself (not of its guard), as of its last start.

        Raises:
            CounterfoilError: NOT_FOUND for a name that is not supervised or not started yet.
        """
        path = self._find(name).spec.pid_file
        try:
            return int(path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise CounterfoilError(Code.NOT_FOUND, f"{name} has not been started.") from error

    def is_ready(self, name: str) -> bool:
        """Return whether the process is up and was seen ready since its last start."""
        return self._find(name).ready.is_set()

    async def wait_ready(self, name: str) -> None:
        """Return when the process is up and ready, even after a restart."""
        await self._find(name).ready.wait()

    def _find(self, name: str) -> _Running:
        try:
            return self._running[name]
        except KeyError:
            raise CounterfoilError(Code.NOT_FOUND, f"There is no process named {name}.") from None

    async def _bring_up(self, running: _Running) -> None:
        """Start a process once its dependencies are ready, and start its keeper."""
        for name in running.spec.after:
            await self._running[name].ready.wait()
        delay, attempts = FIRST_DELAY_S, 0
        deadline = time.monotonic() + running.spec.ready_timeout_s
        while (code := await self._start_until_ready(running, deadline)) is not None:
            attempts += code > 0
            how = _how_it_ended(code)
            if not running.spec.restart or attempts >= START_ATTEMPTS or code == 0:
                raise _failure(running.spec, f"{how} before it was ready")
            self._on_event(running.spec.name, f"{how} before it was ready, restarting")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_S)
        running.keeper = asyncio.create_task(self._keep(running), name=f"keep {running.spec.name}")

    async def _start_until_ready(self, running: _Running, deadline: float) -> int | None:
        """Start the process; return None once it is ready, or the code with which it ended before that.

        Raises:
            CounterfoilError: UNAVAILABLE if neither happens by the deadline; the process is stopped then.
        """
        spec = running.spec
        self._on_event(spec.name, "starting")
        process = await self._spawn(running)
        while process.returncode is None:
            if await _is_ready(spec):
                running.ready.set()
                took = time.monotonic() - running.started_at
                self._on_event(spec.name, f"ready in {took:.1f} s")
                return None
            if time.monotonic() > deadline:
                await self._end(running)
                raise _failure(spec, f"was not ready within {spec.ready_timeout_s:g} s")
            await asyncio.sleep(POLL_S)
        await self._end(running)
        return process.returncode

    async def _keep(self, running: _Running) -> None:
        """Wait for the process to die, report it and restart it, until it is stopped on purpose."""
        spec, delay = running.spec, FIRST_DELAY_S
        while running.guard is not None:
            code = await running.guard.wait()
            if running.stopping:
                return
            running.ready.clear()
            steady = time.monotonic() - running.started_at > STEADY_S
            delay = FIRST_DELAY_S if steady else delay
            await self._end(running)
            if not spec.restart:
                self._on_event(spec.name, _how_it_ended(code))
                return
            self._on_event(spec.name, f"{_how_it_ended(code)}, restarting")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_S)
            await self._revive(running)

    async def _revive(self, running: _Running) -> None:
        """Restart the process after it died, as often as it takes."""
        delay = FIRST_DELAY_S
        while True:
            deadline = time.monotonic() + running.spec.ready_timeout_s
            try:
                code = await self._start_until_ready(running, deadline)
            except (CounterfoilError, OSError) as error:
                how = str(error)
            else:
                if code is None:
                    return
                how = f"{_how_it_ended(code)} before it was ready"
            self._on_event(running.spec.name, f"{how}, restarting in {delay:.1f} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _spawn(self, running: _Running) -> asyncio.subprocess.Process:
        """Start the process under its guard; on return `guard` and `lifeline` are set."""
        spec = running.spec
        for stale in filter(None, (spec.ready_file, spec.pid_file)):
            stale.unlink(missing_ok=True)
        command = process_guard.command_line(
            spec.command,
            stop_signal=spec.stop_signal,
            kill_after_s=spec.kill_after_s,
            pid_file=spec.pid_file.absolute(),
        )
        with _open_log(spec.log_file) as log:
            running.guard, running.lifeline = await start_guarded(
                command,
                stdout=log,
                stderr=log,
                cwd=spec.cwd,
                env={**os.environ, **(spec.env or {})},
                pass_fds=self._inherited,
            )
        running.started_at = time.monotonic()
        return running.guard

    async def _stop_one(self, running: _Running) -> None:
        running.ready.clear()
        if running.keeper is not None:
            running.keeper.cancel()
            await asyncio.gather(running.keeper, return_exceptions=True)
            running.keeper = None
        if running.guard is not None:
            await self._end(running)
            self._on_event(running.spec.name, "stopped")

    async def _end(self, running: _Running) -> None:
        """Stop the process through its lifeline, then kill what a killed guard may have left behind."""
        running.let_go()
        process, running.guard = running.guard, None
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), running.spec.kill_after_s + 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            running.spec.pid_file.unlink(missing_ok=True)


async def start_guarded(
    command: Sequence[str], **options: Any
) -> tuple[asyncio.subprocess.Process, int]:
    """Start `process_guard.command_line(…)` with asyncio's subprocess `options`.
    Returns the guard and the write end of its lifeline: closing it ends the command.
    """
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=read_end, start_new_session=True, **options
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, write_end


def _check_order(specs: Sequence[ProcessSpec], known: Collection[str]) -> None:
    """Refuse duplicate names, and unknown or circular dependencies."""
    after = {spec.name: set(spec.after) for spec in specs}
    if len(after) != len(specs) or not after.keys().isdisjoint(known):
        raise CounterfoilError(Code.CONFIGURATION, "Two processes have the same name.")
    done = set(known)
    while after:
        free = [name for name, needs in after.items() if needs <= done]
        if not free:
            waiting = ", ".join(sorted(after))
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"These processes wait for each other or for an unknown one: {waiting}.",
            )
        done.update(free)
        for name in free:
            del after[name]


@contextlib.asynccontextmanager
async def _first_error_only() -> AsyncIterator[None]:
    """Raise a task group's first error alone; it caused the others."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


async def _is_ready(spec: ProcessSpec) -> bool:
    if not spec.pid_file.exists():
        return False  # the guard has not got that far yet
    if spec.ready_file is not None:
        try:
            if spec.ready_file.stat().st_size == 0:
                return False
        except FileNotFoundError:
            return False
    return spec.ready_check is None or await spec.ready_check()


def _open_log(path: Path) -> BinaryIO:
    """Open a log for appending, with a line that marks the start; rename a long one first."""
    private_folder(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    log = append_private(path)
    log.write(f"--- started {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} ---\n".encode())
    return log


def _how_it_ended(code: int) -> str:
    return f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _failure(spec: ProcessSpec, what: str) -> CounterfoilError:
    """Return the error for a process that failed, with the last lines of its log."""
    try:
        with spec.log_file.open("rb") as log:
            log.seek(max(0, spec.log_file.stat().st_size - 4096))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    tail = " | ".join(line.strip() for line in lines[-3:] if line.strip())
    return CounterfoilError(
        Code.UNAVAILABLE,
        f"{spec.name} {what}." + (f" Its log ends with: {tail}" if tail else ""),
        remedy=f"See {spec.log_file}.",
    )
