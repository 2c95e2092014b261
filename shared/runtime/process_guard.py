"""Run a command that cannot outlive its supervisor.

    python -m shared.runtime.process_guard [--stop-signal TERM] [--kill-after S] [--user U] -- command …

The guard leads a process group of its own, starts the command in it and holds a *lifeline*: the
read end of a pipe (standard input unless `--lifeline FD`) whose write end only the supervisor
has. When the pipe closes, whatever killed the supervisor, the guard sends the stop signal to the
command, and after `--kill-after` seconds SIGKILL to it and to what is left of the group.

- Signals sent to the guard are passed on; INT, TERM, QUIT and HUP also start the kill timer.
- The guard ends as the command ended: with its exit code, or by the same signal.
- On Linux the command receives `--death-signal` (default KILL) when the guard itself is killed, and
  processes that the command leaves behind are adopted and killed by the guard, even if they left the group.

This file is run by path, without the packages around it: it imports only the standard library.
"""

import argparse
import contextlib
import ctypes
import os
import pwd
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PASSED_ON: Final = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP})
NOT_STARTED: Final = 127
"""Exit code when the command could not be started at all, as in a shell."""


def command_line(
    command: Sequence[str],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    kill_after_s: float = 10.0,
    death_signal: signal.Signals = signal.SIGKILL,
    pid_file: Path | None = None,
    user: str | None = None,
) -> list[str]:
    """Return the arguments that run `command` under a guard, in a bare Python that starts fast."""
    options = [
        f"--stop-signal={stop_signal.name.removeprefix('SIG')}",
        f"--death-signal={death_signal.name.removeprefix('SIG')}",
        f"--kill-after={kill_after_s}",
    ]
    if pid_file is not None:
        options.append(f"--pid-file={pid_file}")
    if user is not None:
        options.append(f"--user={user}")
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *options, "--", *command]


def prctl(option: int, value: int) -> None:
    """Set a process attribute on Linux; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _signal(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{name} is not a signal") from None


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="guard", description="Run a command that ends when its supervisor does."
    )
    parser.add_argument("--stop-signal", type=_signal, default=signal.SIGTERM, metavar="NAME")
    parser.add_argument("--death-signal", type=_signal, default=signal.SIGKILL, metavar="NAME")
    parser.add_argument("--kill-after", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--lifeline", type=int, default=0, metavar="FD")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="receives the command's pid")
    parser.add_argument("--user", metavar="NAME", help="run the command as this user")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND")
    return parser.parse_args(arguments)


class Guard:
    """One guarded command. `run` returns when the command and everything it started are gone."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._kill_at: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Start the command, watch over it, and return its code as `subprocess` does."""
        if os.getpgid(0) != os.getpid():
            os.setpgid(0, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._catch_signals()
        try:
            self._child = self._start()
        except (OSError, KeyError) as error:
            sys.stderr.write(f"guard: cannot start {self._options.command[0]}: {error}\n")
            return NOT_STARTED
        self._write_pid_file(self._child.pid)
        code = self._watch(self._child)
        self._kill_leftovers()
        return code

    def _catch_signals(self) -> None:
        """Make every signal wake the loop; the handlers themselves do nothing."""
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for name in (*PASSED_ON, "SIGCHLD"):
            signal.signal(signal.Signals[name], lambda *_: None)

    def _start(self) -> subprocess.Popen[bytes]:
        guard = os.getpid()
        death_signal = int(self._options.death_signal)
        set_attribute = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

        def die_with_guard() -> None:  # after setuid, which would clear the attribute
            if set_attribute is not None:
                set_attribute(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(NOT_STARTED)

        account = pwd.getpwnam(self._options.user) if self._options.user else None
        return subprocess.Popen(
            self._options.command,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_guard,  # noqa: PLW1509  # the guard has one thread
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    def _write_pid_file(self, pid: int) -> None:
        path: Path | None = self._options.pid_file
        if path is not None:
            fresh = path.with_name(path.name + ".new")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            fresh.replace(path)

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Pass signals on, watch the lifeline, and return the command's code once it has ended."""
        lifeline: int | None = self._options.lifeline
        while True:
            if (code := child.poll()) is not None:
                return code
            now = time.monotonic()
            if self._kill_at is not None and now >= self._kill_at:
                child.kill()
                self._kill_at = None
            timeout = None if self._kill_at is None else self._kill_at - now
            watched = [self._wake_read] if lifeline is None else [self._wake_read, lifeline]
            readable, _, _ = select.select(watched, [], [], timeout)
            if self._wake_read in readable:
                self._pass_on(child, os.read(self._wake_read, 64))
            if lifeline is not None and lifeline in readable and not _still_held(lifeline):
                lifeline = None
                self._begin_end()
                child.send_signal(self._options.stop_signal)

    def _pass_on(self, child: subprocess.Popen[bytes], numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                continue
            if number in ENDING:
                self._begin_end()
            child.send_signal(number)

    def _begin_end(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + max(0.0, self._options.kill_after)

    def _kill_leftovers(self) -> None:
        """Kill the processes that the command left in the group, then those adopted from elsewhere."""
        for pid in _others_in_group(os.getpgid(0)):
            _kill(pid)
        while True:
            children = _children(os.getpid())
            for pid in children:
                _kill(pid)
            try:
                if os.waitpid(-1, 0 if children else os.WNOHANG) == (0, 0):
                    return
            except ChildProcessError:
                return


def _still_held(lifeline: int) -> bool:
    """Return whether the other end is open; bytes that arrive mean nothing and are dropped."""
    try:
        return bool(os.read(lifeline, 4096))
    except OSError:
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Return the direct children as Linux lists them; an empty list elsewhere."""
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in listing.split()]


def _others_in_group(group: int) -> list[int]:
    """Return every other process in the group."""
    if Path("/proc/self").exists():
        pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    else:
        listing = subprocess.run(["/bin/ps", "-axo", "pid="], capture_output=True, check=False)
        pids = [int(pid) for pid in listing.stdout.split()]
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.getpgid(pid) == group:
                found.append(pid)
    return found


def _end_like(code: int) -> NoReturn:
    """End this process as the command ended: same exit code, or same signal without a core file."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the guard from its command line."""
    _end_like(Guard(_parse(sys.argv[1:] if arguments is None else arguments)).run())


if __name__ == "__main__":
    main()
