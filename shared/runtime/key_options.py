"""Options by which commands that make keys are told where to keep them."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings

passphrase_option: Final = click.option(
    "--passphrase-from",
    metavar="SOURCE",
    help="Where the passphrase is: fd:NUMBER, file:/PATH, credential:NAME (systemd), or env:NAME of a variable that names a"
    " file.",
)


def key_store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a key store, as its parameter `key_store`: None if none is given."""

    @click.option(
        "--key-store",
        "key_store_kind",
        metavar="KIND",
        help="Where keys are kept: file, passphrase, or a plug-in's name [default: file].",
    )
    @passphrase_option
    @click.option(
        "--key-store-option",
        "key_store_options",
        multiple=True,
        metavar="NAME=VALUE",
        help="For a plug-in; may be repeated.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        key_store_kind: str | None,
        passphrase_from: str | None,
        key_store_options: tuple[str, ...],
        **given: Any,
    ) -> Any:
        store = _settings(key_store_kind, passphrase_from, key_store_options)
        return command(*args, key_store=store, **given)

    return wrapped


def _settings(
    kind: str | None, passphrase_from: str | None, options: tuple[str, ...]
) -> "KeyStoreSettings | None":
    from shared.runtime.config import checked  # noqa: PLC0415  # --help stays light
    from shared.runtime.key_store import FILE, PASSPHRASE, KeyStoreSettings  # noqa: PLC0415

    if kind is None and passphrase_from is None and not options:
        return None
    values = {
        "kind": kind or (FILE if passphrase_from is None else PASSPHRASE),
        "passphrase_from": passphrase_from,
        "options": dict(pair.partition("=")[::2] for pair in options),
    }
    return checked(KeyStoreSettings, values, "the given key store")
