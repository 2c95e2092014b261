"""Run a `counterfoil` command and write down where its threads spend their time.

    python -m benchmarks.log.profiled FILE audit serve --config audit.toml --ready-file ready.json

A thread looks at all others every few milliseconds, from the moment the ready file is there. Frames are Python's: time in the
database's driver or in a cipher is counted to the function that called it. What only waits for work is excluded from the shares.
FILE receives CPU time by thread, shares by function, and folded stacks (`a;b;c count` lines, as flame graphs take them).
"""

import contextlib
import os
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from shared.runtime.cli import main as counterfoil

EVERY_S = 0.005
SWITCH_S = 0.0005
"""Python's default would let a thread run for 5 ms before it is sampled, usually until it waits of its own accord."""
CPU_EVERY = 100
"""Looks between two readings of CPU time."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MOST_FUNCTIONS = 25
IDLE = (
    "selectors.select",
    "threading.wait",
    "threading._wait_for_tstate_lock",
    "thread._worker",
    "threading.run",
)
"""Innermost frames of a thread that has nothing to do."""
Stacks = Mapping[tuple[str, ...], int]
"""(thread, outermost frame, …, innermost frame) → how often it was seen."""


class Sampler(threading.Thread):
    """Counts stacks until stopped."""

    def __init__(self, ready: Path) -> None:
        super().__init__(name="sampler", daemon=True)
        self._ready = ready
        self._over = threading.Event()
        self._before: dict[int, float] = {}
        self._spent: dict[int, tuple[str, float]] = {}
        self.stacks: Counter[tuple[str, ...]] = Counter()
        self.looks = 0

    def run(self) -> None:
        while not self._ready.exists() and not self._over.wait(EVERY_S):
            pass
        self._before = {task: seconds for task, (_, seconds) in cpu_by_task().items()}
        while not self._over.wait(EVERY_S):
            if self.looks % CPU_EVERY == 0:  # so that threads that end early still count
                self._spent |= cpu_by_task()
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():  # meant for this
                if ident != self.ident:
                    self.stacks[group(names.get(ident, "?")), *_frames(frame)] += 1
            self.looks += 1

    def cpu_by_thread(self) -> dict[str, float]:
        """Return CPU seconds since the command was ready, by groups of threads."""
        spent: dict[str, float] = defaultdict(float)
        for task, (name, seconds) in self._spent.items():
            spent[name] += seconds - self._before.get(task, 0.0)
        return dict(spent)

    def stop(self) -> None:
        """Stop counting."""
        self._over.set()
        self.join()


def group(thread: str) -> str:
    """Return a thread's name without its number: members of a pool are counted together."""
    return re.sub(r"[-_ ]?\d+( \(.*\))?$", "", thread)


def _frames(frame: FrameType | None) -> Sequence[str]:
    names = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back
    return names[::-1]


def report(stacks: Stacks, looks: int, cpu_s: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "CPU seconds by thread"
    for name, seconds in sorted(cpu_s.items(), key=lambda item: -item[1]):
        yield f"{seconds:10.2f}  {name}"
    for thread in dict.fromkeys(stack[0] for stack in stacks):
        busy = {s: n for s, n in stacks.items() if s[0] == thread and s[-1] not in IDLE}
        if total := sum(busy.values()):
            yield ""
            yield f"{thread}: {total / looks:.2f} threads at work or waiting for an answer on average (share within, share itself)"
            yield from _functions(busy, total)
    yield ""
    yield "folded stacks"
    for stack, count in sorted(stacks.items(), key=lambda item: -item[1]):
        if stack[-1] not in IDLE:
            yield f"{';'.join(stack)} {count}"


def _functions(busy: Stacks, total: int) -> Iterator[str]:
    within: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    for (_, *frames), count in busy.items():
        for name in set(frames):
            within[name] += count
        itself[frames[-1]] += count
    ranked = sorted(within, key=lambda name: (-itself[name], -within[name]))
    shown = {*ranked[:MOST_FUNCTIONS], *(name for name, _ in within.most_common(MOST_FUNCTIONS))}
    for name in sorted(shown, key=lambda name: -within[name]):
        yield f"{within[name] / total:9.1%} {itself[name] / total:8.1%}  {name}"


def cpu_by_task() -> dict[int, tuple[str, float]]:
    """Return (thread's group, CPU seconds so far) of each thread; those that are not Python's are named as the system names them.

    Linux only; empty elsewhere.
    """
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return {}
    names = {thread.native_id: group(thread.name) for thread in threading.enumerate()}
    found = {}
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            comm, _, rest = (task / "stat").read_text(encoding="utf-8").rpartition(") ")
            user, system = rest.split()[11:13]
            name = names.get(int(task.name), f"({comm.partition('(')[2]})")
            found[int(task.name)] = (name, (int(user) + int(system)) / TICKS_PER_S)
    return found


def main() -> None:
    """Run the command given on the command line."""
    file, *arguments = sys.argv[1:]
    sampler = Sampler(Path(arguments[arguments.index("--ready-file") + 1]))
    sys.setswitchinterval(SWITCH_S)
    sampler.start()
    try:
        counterfoil(arguments)
    finally:
        sampler.stop()
        lines = report(sampler.stacks, max(sampler.looks, 1), sampler.cpu_by_thread())
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
