"""Fixtures for every test, and how a run is arranged.

- `database`: a fresh Postgres database at the newest revision with `.owner_dsn`, `.server_dsn`,
  `.worker_dsn`, `.broker_dsn`, `.dsn_file(role)` and `.engine(role)`; about 10 ms each, after the
  process's own server has started (about a second). See `tests/postgres.py`.
- `empty_database`: the same before any migration.
- `postgres`: the server itself, one for each process that runs tests. It starts only when a test
  asks for it, so legs without SQLAlchemy can run their own tests.

`make test` runs the tests in as many processes as there are cores (pytest-xdist), a plain `pytest`
in one. In both cases:

- No test leaves this machine (see `tests/network.py`).
- No run leaves a process or a temporary file behind, and a process that is still running at the end
  fails the run (see `tests/leftovers.py`).
- Numeric libraries use one thread in each process, and in what it starts: results do not depend on
  threads, and several processes with several threads each would wait for one another.
- Tests share nothing but the source tree, which they only read. Ports are given by the system, files
  are below `tmp_path` or TMPDIR, and deadlines leave room for a busy machine.
- What takes longest begins first: everything `slow`, and the files in LONGEST. A process that runs
  out of tests takes half of those that another one still has before it (`--dist worksteal`). So
  neighbours stay together, and what a module or a process sets up is set up once or twice.

Two markers leave tests out; they are deselected and counted, not skipped.

- `slow`: a test that takes ten seconds or more on its own because it covers something whole: an
  installation with all its processes, a benchmark from end to end, a server that is killed many
  times. Whatever else is slow should be made faster. `make test` leaves these out, `make test-slow`
  runs nothing else, and continuous integration runs both.
- `soak`: the long loops that only `make soak` runs.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import leftovers
from tests.network import stay_on_this_machine

if TYPE_CHECKING:
    from tests.postgres import Database, PostgresServer

# Triton reads this when it is imported: the GPU's kernels are tested in its interpreter, on machines with and without one.
os.environ["TRITON_INTERPRET"] = "1"

# Before anything has imported numpy or torch, which read it once.
for _library in ("OMP", "MKL", "OPENBLAS", "RAYON"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

LONGEST = (
    "test_bit_identity.py",
    "test_crashes.py",
    "test_fsck_whole.py",
    "test_migrations.py",
    "test_outages.py",
    "test_passes.py",
    "test_profile.py",
    "test_s3_store.py",
    "test_sumdb.py",
)
"""Files with tests that take five seconds or more and are not `slow`."""
RUN = pytest.StashKey[leftovers.Run]()
LEFT = pytest.StashKey[dict[int, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long loops (`make soak`)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, use every core that this process may run on, hyperthreads included."""
    return len(os.sched_getaffinity(0))


def pytest_configure(config: pytest.Config) -> None:
    stay_on_this_machine()
    if not hasattr(config, "workerinput"):  # this process starts the run
        config.stash[RUN] = leftovers.Run()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """When everything is torn down and the processes have ended, no process of the run may be left."""
    yield
    run = session.config.stash.get(RUN, None)
    if run is not None and (left := run.left_running()):
        leftovers.end(left)
        leftovers.end(run.left_running())  # what they had started and did not take with them
        session.config.stash[LEFT] = left
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for pid, command in config.stash.get(LEFT, {}).items():
        terminalreporter.write_line(f"LEFT RUNNING {pid}: {command}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (run := config.stash.get(RUN, None)) is not None:
        run.remove()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long loops out of the suite (deselected and counted, not skipped); put the longest tests first."""
    if not config.getoption("--soak"):
        long = [item for item in items if item.get_closest_marker("soak")]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker("soak")]
    items.sort(key=lambda item: not _is_long(item))


def _is_long(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("slow")) or item.path.name in LONGEST


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    from tests.postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: "PostgresServer", tmp_path: Path) -> Iterator["Database"]:
    with postgres.database(tmp_path) as database:
        yield database


@pytest.fixture
def empty_database(postgres: "PostgresServer", tmp_path: Path) -> Iterator["Database"]:
    with postgres.database(tmp_path, migrated=False) as database:
        yield database
