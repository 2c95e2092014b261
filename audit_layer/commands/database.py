"""`counterfoil db`: the embedded server, roles and databases, migrations."""

import signal
import threading
from pathlib import Path

import click

from shared.runtime.output import emit, json_option

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)

dsn_option = click.option(
    "--dsn-file",
    type=_file,
    help="File with the DSN of role `counterfoil_owner`. Default: the file that "
    "COUNTERFOIL_DATABASE_DSN_FILE names, or the DSN in COUNTERFOIL_DATABASE_URL.",
)


@click.group("db")
def db() -> None:
    """Run the embedded Postgres; create roles; migrate."""


@db.command("serve")
@click.option("--folder", type=_folder, required=True, help="The server's data, secrets and log.")
@click.option("--ready-file", type=_file, help="Written once connections are accepted.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds to wait for a previous server on the folder to shut down.",
)
def serve(folder: Path, ready_file: Path | None, wait_s: float) -> None:
    """Run the embedded Postgres 18 in the foreground, on a Unix socket.

    The first start creates it; `counterfoil db init` then creates roles and databases. Ends when
    told to, or with an error when the server dies.
    """
    from audit_layer.storage.embedded import EmbeddedPostgres  # noqa: PLC0415  # --help stays light
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.runtime.readiness import write_ready  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    server = EmbeddedPostgres(folder)
    server.start(wait_for_previous_s=wait_s)
    try:
        admin_file = server.secrets_folder / "admin.dsn"
        click.echo(f"Postgres accepts connections; the administrator's DSN is in {admin_file}")
        if ready_file is not None:
            write_ready(ready_file, {"admin_dsn_file": str(admin_file)})
        while not stop.is_set():
            if (code := server.wait(0.2)) is not None:
                raise CounterfoilError(
                    Code.UNAVAILABLE,
                    f"Postgres ended with code {code}.",
                    remedy=f"See {server.log_file}.",
                )
    finally:
        server.stop()


@db.command("init")
@click.option("--folder", type=_folder, help="Folder of an embedded server.")
@click.option("--admin-dsn-file", type=_file, help="Or: file with the DSN of any administrator.")
@click.option(
    "--secrets",
    type=_folder,
    help="Where the roles' DSN files go. Default with --folder: FOLDER/secrets.",
)
@click.option("--database", default="counterfoil", show_default=True)
@click.option("--broker-database", default="counterfoil_broker", show_default=True)
@click.option(
    "--reset-passwords",
    is_flag=True,
    help="Give existing roles the passwords in --secrets. Clients that use the old ones are"
    " locked out.",
)
@json_option
def init(
    folder: Path | None,
    admin_dsn_file: Path | None,
    secrets: Path | None,
    database: str,
    broker_database: str,
    reset_passwords: bool,
    as_json: bool,
) -> None:
    """Create roles, databases and one DSN file for each role. Safe to repeat."""
    from audit_layer.storage import roles  # noqa: PLC0415  # --help stays light
    from audit_layer.storage.dsn import read_dsn_file  # noqa: PLC0415

    if (folder is None) == (admin_dsn_file is None):
        raise click.UsageError("Give either --folder or --admin-dsn-file.")
    if folder is not None:
        secrets = secrets or folder / "secrets"
        admin_dsn_file = folder / "secrets" / "admin.dsn"
    if secrets is None or admin_dsn_file is None:
        raise click.UsageError("--admin-dsn-file needs --secrets.")
    files = roles.initialise(
        read_dsn_file(admin_dsn_file),
        secrets,
        database=database,
        broker_database=broker_database,
        reset_passwords=reset_passwords,
    )
    found = {role: str(path) for role, path in files.items()}
    emit(found, as_json, lambda: "\n".join(f"{role}: {path}" for role, path in found.items()))


@db.command("upgrade")
@click.argument("revision", default="head")
@click.option("--sql", is_flag=True, help="Print the SQL instead; needs no database.")
@dsn_option
def upgrade(revision: str, sql: bool, dsn_file: Path | None) -> None:
    """Migrate up to REVISION."""
    from audit_layer.storage import migrate  # noqa: PLC0415  # --help stays light
    from audit_layer.storage.dsn import find_dsn  # noqa: PLC0415

    if sql:
        click.echo(migrate.upgrade(None, revision, sql=True), nl=False)
        return
    dsn = find_dsn(dsn_file)
    migrate.upgrade(dsn, revision)
    click.echo(f"The database is at revision {migrate.current(dsn)}.")


@db.command("downgrade")
@click.argument("revision")
@click.option(
    "--yes", is_flag=True, help="Do not ask for confirmation. Tables and their rows are removed."
)
@dsn_option
def downgrade(revision: str, yes: bool, dsn_file: Path | None) -> None:
    """Migrate down to REVISION (`base`: remove everything)."""
    from audit_layer.storage import migrate  # noqa: PLC0415  # --help stays light
    from audit_layer.storage.dsn import find_dsn  # noqa: PLC0415

    dsn = find_dsn(dsn_file)
    if not yes:
        click.confirm("This removes tables and everything in them. Continue?", abort=True)
    migrate.downgrade(dsn, revision)
    click.echo(f"The database is at revision {migrate.current(dsn) or 'base'}.")


@db.command("current")
@dsn_option
@json_option
def current(dsn_file: Path | None, as_json: bool) -> None:
    """Show the database's revision and the newest one. Exit code 1 when they differ."""
    from audit_layer.storage import migrate  # noqa: PLC0415  # --help stays light
    from audit_layer.storage.dsn import find_dsn  # noqa: PLC0415

    found, newest = migrate.current(find_dsn(dsn_file)), migrate.head()
    emit(
        {"current": found, "head": newest},
        as_json,
        lambda: f"{found or 'base'} (newest: {newest})",
    )
    if found != newest:
        click.get_current_context().exit(1)


@db.command("check")
@dsn_option
@json_option
def check(dsn_file: Path | None, as_json: bool) -> None:
    """Compare tables, privileges, functions and triggers with the code. Exit code 1 when they differ."""
    from audit_layer.storage import migrate  # noqa: PLC0415  # --help stays light
    from audit_layer.storage.dsn import find_dsn  # noqa: PLC0415

    differences = migrate.check(find_dsn(dsn_file))
    emit(
        {"differences": differences},
        as_json,
        lambda: "\n".join(differences) or "The database matches what the code declares.",
    )
    if differences:
        click.get_current_context().exit(1)


@db.command("alembic-ini")
def alembic_ini() -> None:
    """Print the packaged alembic.ini: alembic -c "$(counterfoil db alembic-ini)" upgrade head."""
    from audit_layer.storage import migrate  # noqa: PLC0415  # --help stays light

    click.echo(migrate.ini_path())
