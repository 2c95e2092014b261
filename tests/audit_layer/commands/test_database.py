"""`counterfoil db`: what operators type."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from audit_layer.commands.database import db
from audit_layer.storage import embedded, migrate
from audit_layer.storage.dsn import read_dsn_file, write_dsn_file
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError

REPOSITORY = Path(embedded.__file__).parents[2]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(db, [str(argument) for argument in arguments])


def test_help_imports_neither_sqlalchemy_nor_torch():
    program = (
        "import sys; from audit_layer.commands.database import db\n"
        "db(['--help'], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'alembic', 'torch', 'psycopg')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.returncode == 0
    for name in (b"serve", b"init", b"upgrade", b"downgrade", b"current", b"check", b"alembic-ini"):
        assert name in done.stdout


def test_init_takes_any_administrators_dsn_and_prints_the_files(postgres, tmp_path):
    admin = tmp_path / "admin.dsn"
    write_dsn_file(admin, postgres.embedded.admin_dsn)
    secrets = postgres.embedded.secrets_folder  # so that the session's passwords stay
    options = ["--admin-dsn-file", admin, "--secrets", secrets]
    again = ["--database", "counterfoil_template", "--json"]
    result = invoke("init", *options, *again)
    assert result.exit_code == 0, result.output
    files = json.loads(result.output)
    assert set(files) == {"owner", "server", "worker", "broker"}
    assert "counterfoil_server" in read_dsn_file(Path(files["server"]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["init"],
        ["init", "--folder", "a", "--admin-dsn-file", "b"],
        ["init", "--admin-dsn-file", "b"],
        ["serve"],
        ["downgrade"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_only_the_owner_sees_the_database_and_others_learn_whose_dsn_is_needed(database, capsys):
    for role in ("server", "worker"):
        for command in ("current", "check", "upgrade"):
            dsn = ["--dsn-file", str(database.dsn_file(role))]
            assert run(db, [command, *dsn]) == 2
            told = capsys.readouterr().err
            assert "owner.dsn" in told
            assert "SELECT" not in told


def test_alembics_greetings_are_not_logged(empty_database, caplog):
    caplog.set_level("INFO")
    invoke("upgrade", "--dsn-file", empty_database.dsn_file("owner"))
    told = [r.getMessage() for r in caplog.records if r.name == "alembic.runtime.migration"]
    assert told
    assert all(line.startswith("Running upgrade") for line in told)


def test_upgrade_current_check_and_downgrade(empty_database):
    dsn = ["--dsn-file", empty_database.dsn_file("owner")]
    assert invoke("current", *dsn).exit_code == 1
    upgraded = invoke("upgrade", *dsn)
    assert upgraded.exit_code == 0, upgraded.output
    assert str(migrate.head()) in upgraded.output
    assert invoke("current", *dsn).exit_code == 0
    checked = invoke("check", "--json", *dsn)
    assert (checked.exit_code, json.loads(checked.output)) == (0, {"differences": []})
    with empty_database.engine().begin() as connection:
        connection.exec_driver_sql("GRANT DELETE ON log_entries TO counterfoil_server")
    assert invoke("check", *dsn).exit_code == 1
    assert CliRunner().invoke(db, ["downgrade", "base", *map(str, dsn)], input="n\n").exit_code == 1
    assert invoke("current", *dsn).exit_code == 0
    assert invoke("downgrade", "base", "--yes", *dsn).exit_code == 0
    assert invoke("current", *dsn).exit_code == 1


def test_sql_needs_no_database(monkeypatch):
    for name in ("COUNTERFOIL_DATABASE_DSN_FILE", "COUNTERFOIL_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    result = invoke("upgrade", "--sql")
    assert result.exit_code == 0
    assert "CREATE TABLE log_entries" in result.output
    assert "GRANT SELECT, INSERT" in result.output


def test_no_database_configured_is_explained(monkeypatch):
    for name in ("COUNTERFOIL_DATABASE_DSN_FILE", "COUNTERFOIL_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    error = invoke("upgrade").exception
    assert isinstance(error, CounterfoilError)
    assert error.code is Code.CONFIGURATION
    assert "--dsn-file" in (error.remedy or "")


def test_alembic_ini_prints_a_file_that_exists():
    assert Path(invoke("alembic-ini").output.strip()).is_file()
