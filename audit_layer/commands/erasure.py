"""`counterfoil audit erasure`: store statements so that they can be erased, and erase them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from audit_layer.commands.options import FILE, config_option, core_of
from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings


KEY_FILE: Final = "erasure.key"
_day = click.DateTime(("%Y-%m-%d",))


@click.group("erasure")
def erasure() -> None:
    """Make receipts and orders unreadable on request; proofs over them stay valid."""


@erasure.command("init")
@config_option
@json_option
def init(config: Path, as_json: bool) -> None:
    """Store receipts and orders so that they can be erased, from the server's next start on.

    Workers need the same file: `erasure_key_file` in their worker.toml.
    """
    from audit_layer.trail.at_rest import create_key_file  # noqa: PLC0415
    from audit_layer.wiring import audit_settings as files  # noqa: PLC0415  # --help stays light
    from shared.runtime.config import checked  # noqa: PLC0415

    settings = files.load_as_written(config)
    name = settings.erasure_key_file or settings.keys_folder / KEY_FILE
    path = config.absolute().parent / name
    create_key_file(path)
    wanted = {**dict(settings), "erasure_key_file": name}
    files.save(checked(files.AuditSettings, wanted, "the given configuration"), config)
    emit(
        {"erasure_key_file": str(path)},
        as_json,
        lambda: f"{path} must never be kept where the database's backups are.",
    )


@erasure.command("run")
@click.option("--tenant", required=True, help="Whose receipts and orders.")
@click.option(
    "--from", "start", type=_day, required=True, help="First UTC day on which they began."
)
@click.option("--to", "end", type=_day, required=True, help="The day after the last.")
@click.option("--reason", required=True, help="Why; this stays in the log forever.")
@click.option("--requested-by", required=True, help="By whom; this stays in the log forever.")
@click.option("--authority-key", type=FILE, required=True, help="The audit authority's key (PEM).")
@click.option("--authority", default="authority", show_default=True, help="Its name.")
@key_store_options
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@config_option
@json_option
def run(
    tenant: str,
    start: datetime,
    end: datetime,
    reason: str,
    requested_by: str,
    authority_key: Path,
    authority: str,
    yes: bool,
    key_store: "KeyStoreSettings | None",
    config: Path,
    as_json: bool,
) -> None:
    """Erase whole days of a tenant permanently, and log the erasure.

    The command may be repeated after a crash. Other processes can read what was erased for up to a minute longer.
    """
    from datetime import UTC  # noqa: PLC0415  # next to its only use

    from audit_layer.trail.erasure import Eraser  # noqa: PLC0415  # --help stays light
    from shared.codec.moment import Period, now_ms  # noqa: PLC0415
    from shared.runtime.key_store import store_of  # noqa: PLC0415
    from shared.runtime.keys import load_ed25519  # noqa: PLC0415

    if not yes:
        click.confirm(
            f"Erase {tenant} from {start.date()} to {end.date()} permanently?", abort=True
        )
    days = Period(*(int(day.replace(tzinfo=UTC).timestamp() * 1000) for day in (start, end)))
    with core_of(config) as core:
        eraser = Eraser(
            core.engine,
            core.trail,
            load_ed25519(authority_key, store_of(key_store)),
            name=authority,
        )
        done = eraser.erase(tenant, days, reason=reason, requested_by=requested_by, now=now_ms())
    data = {"entry": done.entry, "receipts": done.value.statements, "entries": done.value.entries}
    emit(
        data,
        as_json,
        lambda: f"{done.value.statements} receipts erased; the log says so in {done.entry.hex()}",
    )
