"""Options and helpers that the audit server's commands share; imports nothing heavy until a command runs."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shared.runtime.output import json_option

if TYPE_CHECKING:
    from audit_layer.wiring.audit_server import Core
    from audit_layer.wiring.audit_settings import AuditSettings

F = TypeVar("F", bound=Callable[..., Any])
FILE: Final = click.Path(dir_okay=False, path_type=Path)

config_option = click.option(
    "--config",
    "config",
    type=FILE,
    required=True,
    envvar="COUNTERFOIL_AUDIT_CONFIG",
    show_envvar=True,
    help="The audit server's audit.toml.",
)
entry_argument = click.argument("entry", callback=lambda _ctx, _param, value: _prefix(value))
"""An entry by its 64 hexadecimal digits or at least its first 12, as tables show it."""
key_option = click.option(
    "--key",
    "key",
    required=True,
    callback=lambda _ctx, _param, value: _hex32(value),
    help="Ed25519 public key, 64 hexadecimal digits.",
)


def query_api_options(command: F, *, variable: str, whose: str, required: bool = True) -> F:
    """Give a command the options --url, --token-file and --ca of the query API, and --json. `whose` is the token's help."""
    options = (
        click.option(
            "--url",
            required=required,
            envvar="COUNTERFOIL_AUDIT_URL",
            show_envvar=True,
            help="https://host:port of the query API.",
        ),
        click.option(
            "--token-file",
            type=FILE,
            required=required,
            envvar=variable,
            show_envvar=True,
            help=whose,
        ),
        click.option(
            "--ca",
            type=FILE,
            required=required,
            envvar="COUNTERFOIL_CA",
            show_envvar=True,
            help="Authority of its certificate (PEM).",
        ),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _prefix(value: str) -> str:
    from shared.codec.ids import parse_hex_prefix  # noqa: PLC0415  # --help stays light

    text = value.removesuffix("…").lower()
    parse_hex_prefix(text, "an entry")
    return text


def _hex32(value: str) -> bytes:
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light

    return parse_hex32(value.lower(), "a key")


def settings_of(config: Path) -> "AuditSettings":
    """Return the settings of a configuration file."""
    from audit_layer.wiring.audit_settings import load_settings  # noqa: PLC0415  # --help stays light

    return load_settings(config)


@contextlib.contextmanager
def core_of(config: Path) -> Iterator["Core"]:
    """Open database and trail for one command."""
    from audit_layer.storage.engine import role_named  # noqa: PLC0415  # likewise
    from audit_layer.wiring.audit_server import open_core  # noqa: PLC0415  # --help stays light

    with (
        role_named("server"),
        open_core(settings_of(config), application_name="counterfoil-cli") as core,
    ):
        yield core


def utc(milliseconds: int) -> str:
    """Return a time to the second, for people; any time after the year 9999 becomes the end of it."""
    from shared.codec.moment import MAX_MS, to_rfc3339  # noqa: PLC0415  # --help stays light

    return to_rfc3339(min(milliseconds, MAX_MS))[:19] + "Z"


def rendered(
    title: str,
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    *,
    times: Collection[str] = (),
) -> Callable[[], object]:
    """Return a renderer of some columns of rows as a table for people; `times` are columns of milliseconds."""

    def shown(row: dict[str, Any], column: str) -> object:
        value = row.get(column)
        return utc(value) if column in times and value is not None else value

    def render() -> object:
        from shared.runtime.output import table  # noqa: PLC0415  # --json need not wait for it

        return table(title, columns, [[shown(row, column) for column in columns] for row in rows])

    return render
