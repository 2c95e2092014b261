"""Options and helpers that the audit server's commands share; imports nothing heavy until a command runs."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shared.runtime.output import json_option

if TYPE_CHECKING:
    from audit_layer.wiring.audit_server import Core
    from audit_layer.wiring.audit_settings import AuditSettings

F = TypeVar("F", bound=Callable[..., Any])
FILE: Final = click.Path(dir_okay=False, path_type=Path)
_UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}

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


class Life(click.ParamType[int]):
    """A number of days, hours, minutes or seconds, such as 90d; its value is in milliseconds."""

    name = "duration"

    def convert(
        self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> int:
        """Return the milliseconds."""
        found = re.fullmatch(r"([0-9]{1,9})([dhms])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is not a number with d, h, m or s after it, such as 90d")
        return int(found[1]) * _UNITS_MS[found[2]]


expires_option = click.option(
    "--expires",
    "life_ms",
    type=Life(),
    default="90d",
    show_default=True,
    help="How long it is accepted, such as 12h or 90d; at most 366d.",
)


def warn_of_expiry(headers: Mapping[str, str]) -> None:
    """Say on standard error that the token expires soon, if an answer's headers say so."""
    from shared.runtime.printable import for_terminal  # noqa: PLC0415  # --help stays light
    from shared.runtime.problems import EXPIRES_HEADER  # noqa: PLC0415

    if expires := headers.get(EXPIRES_HEADER):
        click.echo(
            f"Warning: the token expires on {for_terminal(expires[:40])}. Renew it on the audit server:"
            " counterfoil token renew ID --out FILE",
            err=True,
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
