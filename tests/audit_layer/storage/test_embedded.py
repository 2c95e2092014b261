"""The embedded Postgres: closed to strangers, gone with its parent, whole after a crash."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from audit_layer.storage import embedded as module
from audit_layer.storage import unprivileged
from audit_layer.storage.dsn import make_dsn, parse_dsn, password_of
from audit_layer.storage.embedded import EmbeddedPostgres
from audit_layer.storage.unprivileged import Account, reachable_place, reachable_programs
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.runtime.processes import gone, is_running, read_when_there

REPOSITORY = Path(module.__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about servers started by root")


@pytest.fixture(scope="module")
def used() -> Iterator[Path]:
    """The folder of a server that exists already; each test leaves it stopped."""
    with tempfile.TemporaryDirectory(prefix="cf-pg-", dir="/tmp") as path:
        (Path(path) / "data.new").mkdir()
        (Path(path) / "data.new" / "PG_VERSION").write_text("half")
        yield Path(path)


def rows(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.admin_dsn) as connection:
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert found is not None
    return int(found[0])


def keep_one_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.admin_dsn) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")


def socket_folder(server: EmbeddedPostgres) -> Path:
    return Path(str(parse_dsn(server.admin_dsn)["host"]))


def test_it_lets_nobody_in_without_the_password_and_listens_on_no_port(used):
    with EmbeddedPostgres(used, durable=False) as server:
        where = socket_folder(server)
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.secrets_folder / "admin.dsn").stat().st_mode) == 0o600
        assert stat.S_IMODE(server.secrets_folder.stat().st_mode) == 0o700
        wrong = make_dsn(module.ADMIN, "guess", "postgres", host=str(where), port=module.PORT)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        with psycopg.connect(server.admin_dsn) as connection:
            settings = {
                name: connection.execute(f"SHOW {name}").fetchone()
                for name in ("listen_addresses", "data_checksums", "server_encoding")
            }
            methods = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
            assert methods.fetchall() == [("scram-sha-256",)]
        assert settings == {
            "listen_addresses": ("",),
            "data_checksums": ("on",),
            "server_encoding": ("UTF8",),
        }
    assert not any(where.glob(".s.*"))


def test_its_writes_are_synced_unless_a_test_says_otherwise(used):
    with (
        EmbeddedPostgres(used) as server,
        psycopg.connect(server.admin_dsn) as connection,
    ):
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {name}").fetchone() == ("on",)


def test_it_recovers_after_the_server_was_killed(used):
    server = EmbeddedPostgres(used, durable=False)
    server.start()
    keep_one_row(server)
    pid = server.postmaster_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert server.wait(10) == -signal.SIGKILL
    assert server.postmaster_pid is None
    server.stop()
    with server:
        assert rows(server) == 1


PROGRAM = """
import sys, time
from pathlib import Path
from audit_layer.storage.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
server.start()
print(server.postmaster_pid, flush=True)
time.sleep(60)
"""


def test_it_is_gone_when_its_parent_is_killed_and_comes_back_with_its_data(used):
    command = [sys.executable, "-c", PROGRAM, str(used)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        server = EmbeddedPostgres(used, durable=False)
        keep_one_row(server)
        parent.kill()
    server.start(wait_for_previous_s=15)
    assert gone(pid)
    assert rows(server) == 1
    server.stop()


def test_a_killed_guard_takes_the_server_with_it(used):
    server = EmbeddedPostgres(used, durable=False)
    server.start()
    keep_one_row(server)
    pid = server.postmaster_pid
    assert pid is not None
    os.kill(os.getpgid(pid), signal.SIGKILL)
    assert gone(pid)
    server.stop()
    with server:
        assert rows(server) == 1


def test_a_second_start_on_the_folder_is_refused_and_harms_nothing(used):
    with EmbeddedPostgres(used, durable=False) as server:
        with pytest.raises(CounterfoilError, match="already running") as caught:
            EmbeddedPostgres(used, durable=False).start()
        assert caught.value.code is Code.CONFLICT
        keep_one_row(server)
        assert rows(server) == 1


def test_a_half_made_server_is_recreated_and_its_password_stays(used):
    """The fixture's folder held what a killed initdb leaves."""
    with EmbeddedPostgres(used, durable=False) as server:
        first = password_of(server.admin_dsn)
        assert not (used / "data.new").exists()
    with EmbeddedPostgres(used, durable=False) as server:
        assert password_of(server.admin_dsn) == first


def test_a_lost_password_file_is_reported(used):
    server = EmbeddedPostgres(used, durable=False)
    with server:
        pass
    admin_file = server.secrets_folder / "admin.dsn"
    admin_file.rename(admin_file.with_name("elsewhere"))
    with pytest.raises(CounterfoilError, match="missing") as caught:
        server.start()
    assert caught.value.code is Code.CONFIGURATION
    admin_file.with_name("elsewhere").rename(admin_file)


def test_a_server_that_does_not_start_shows_the_last_line_of_its_log(used):
    server = EmbeddedPostgres(used, durable=False)
    with server:
        pass
    data = Path(unprivileged_data(used))
    (data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(CounterfoilError, match="Its log ends with") as caught:
        server.start()
    assert caught.value.code is Code.UNAVAILABLE
    (data / "postgresql.conf").write_text("")
    with server:  # the lock was given back
        pass


def unprivileged_data(folder: Path) -> str:
    return str(json.loads((folder / "postgres.json").read_text())["data"])


def test_a_long_path_gets_a_short_socket_folder_and_keeps_it(folder):
    deep = folder / ("d" * 60) / ("e" * 40)
    deep.mkdir(parents=True)
    for path in (deep, deep.parent):
        path.chmod(0o711)
    folder.chmod(0o711)
    with EmbeddedPostgres(deep, durable=False) as server:
        where = socket_folder(server)
        assert not where.is_relative_to(folder)
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
        keep_one_row(server)
    shutil.rmtree(where)  # as a reboot does with /tmp
    with EmbeddedPostgres(deep, durable=False) as server:
        assert socket_folder(server) == where
        assert rows(server) == 1
    shutil.rmtree(where)


@pytest.mark.parametrize("name", ["a,b", '100% "q" it\'s $HOME', "Größe"])
def test_a_folder_of_any_name_serves(folder, name):
    folder.chmod(0o711)
    with EmbeddedPostgres(folder / name, durable=False) as server:
        keep_one_row(server)
        assert rows(server) == 1
        where = socket_folder(server)
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.log_file.stat().st_mode) == 0o600
    if not where.is_relative_to(folder):
        shutil.rmtree(where)


@pytest.mark.parametrize("name", [os.fsdecode(b"x\xff"), "two\nlines"])
def test_a_folder_that_nothing_can_name_is_refused_by_name(folder, name):
    with pytest.raises(CounterfoilError, match="is not printable UTF-8 text") as caught:
        EmbeddedPostgres(folder / name, durable=False).start()
    assert caught.value.code is Code.CONFIGURATION
    assert list(folder.iterdir()) == []


def test_a_link_in_the_place_of_the_socket_folder_is_refused(folder, tmp_path):
    account = Account.choose()
    (folder / "socket").symlink_to(tmp_path)
    with pytest.raises(CounterfoilError) as caught:
        account.make_folder(folder / "socket")
    assert caught.value.code is Code.CONFLICT


def test_a_missing_wheel_is_reported(monkeypatch):
    monkeypatch.setattr(unprivileged, "WHEEL", "no_such_wheel")
    with pytest.raises(CounterfoilError, match="not installed") as caught:
        reachable_programs(Account.choose())
    assert "counterfoil[embedded]" in (caught.value.remedy or "")


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@as_root
def test_data_and_programs_move_to_where_the_account_can_reach_them(tmp_path, monkeypatch, umask):
    """As below /root, and installed under umask 077: `tmp_path` is in a folder that only root can traverse."""
    assert not Account.choose().can_reach(tmp_path)
    with tempfile.TemporaryDirectory(prefix="cf-fb-", dir="/tmp") as fallback:
        Path(fallback).chmod(0o711)
        monkeypatch.setattr(unprivileged, "FALLBACK", Path(fallback) / "counterfoil")
        original = reachable_programs(Account.choose()).parent
        closed = tmp_path / unprivileged.WHEEL
        shutil.copytree(original, closed / original.name, symlinks=True)
        shutil.copytree(original.parents[1] / f"{closed.name}.libs", f"{closed}.libs")
        for path in closed.rglob("*"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)
        (closed / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        with EmbeddedPostgres(tmp_path / "database", durable=False) as server:
            keep_one_row(server)
            pid = server.postmaster_pid
            assert pid is not None
            assert is_running(pid)
            assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(fallback)
            assert unprivileged_data(server.folder).startswith(fallback)
        with server:
            assert rows(server) == 1


@as_root
def test_an_unreachable_place_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(unprivileged, "FALLBACK", tmp_path / "also" / "closed")
    with pytest.raises(CounterfoilError, match="cannot reach") as caught:
        reachable_place(tmp_path, Account.choose())
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.remedy


def test_serve_runs_in_the_foreground_and_ends_when_told_to(used):
    program = "import sys; from audit_layer.commands.database import db; db()"
    ready = used / "ready"
    command = [
        sys.executable,
        "-c",
        program,
        "serve",
        f"--folder={used}",
        f"--ready-file={ready}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as serve:
        admin_file = Path(json.loads(read_when_there(ready))["admin_dsn_file"])
        with psycopg.connect(admin_file.read_text()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        pid = int((used / "postgres.pid").read_text())
        serve.terminate()
        assert serve.wait(20) == 0
    assert gone(pid)
