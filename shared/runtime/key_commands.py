"""`counterfoil key`: passphrases on key files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shared.runtime.key_options import key_store_options, passphrase_option
from shared.runtime.output import emit, json_option, table

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings

_files = click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(dir_okay=False, path_type=Path),
)


@click.group("key")
def key() -> None:
    """Key files: put a passphrase on them, take it off, see which have one.

    For the keys that parties sign and open with: tenant.pem, operator.pem, and what is in the folder `keys` of nodes, workers,
    witnesses, custodians and the audit server. Then say in the party's configuration, under [key_store], kind = "passphrase"
    and passphrase_from.
    """


@key.command("protect")
@_files
@passphrase_option
@click.option(
    "--current-passphrase-from",
    metavar="SOURCE",
    help="Where the present passphrase is, if it is to be changed.",
)
@json_option
def protect(
    files: tuple[Path, ...],
    passphrase_from: str | None,
    current_passphrase_from: str | None,
    as_json: bool,
) -> None:
    """Put a passphrase on each FILE (age, scrypt), or change it.

    Each is replaced whole: if the command is interrupted, run it again. Stop the party first. What was on the disk before may
    be recoverable from it; a key that must never have been readable is made under a passphrase (--key-store).
    """
    from shared.runtime.key_store import read_passphrase  # noqa: PLC0415  # --help stays light
    from shared.runtime.protecting import protect as put  # noqa: PLC0415

    new = read_passphrase(_given(passphrase_from))
    old = None if current_passphrase_from is None else read_passphrase(current_passphrase_from)
    changed = [path for path in files if put(path, new, current=old)]
    _told(files, changed, "now under the passphrase", as_json)


@key.command("unprotect")
@_files
@passphrase_option
@json_option
def unprotect(files: tuple[Path, ...], passphrase_from: str | None, as_json: bool) -> None:
    """Take the passphrase off each FILE. Each is replaced whole: if the command is interrupted, run it again."""
    from shared.runtime.key_store import read_passphrase  # noqa: PLC0415  # --help stays light
    from shared.runtime.protecting import unprotect as take_off  # noqa: PLC0415

    passphrase = read_passphrase(_given(passphrase_from))
    changed = [path for path in files if take_off(path, passphrase)]
    _told(files, changed, "now without a passphrase", as_json)


@key.command("refer")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--label", required=True, help="By which the plug-in finds the key.")
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "ml-dsa-44", "mlkem768-x25519"]),
    default="ed25519",
    show_default=True,
)
@key_store_options
@json_option
def refer(
    file: Path, label: str, algorithm: str, key_store: "KeyStoreSettings | None", as_json: bool
) -> None:
    """Make FILE, which refers to a key that a device or service holds already. Do it before the party makes keys of its own.

    For keys that sign or open: where the party would make tenant.pem, operator.pem, keys/sign.pem and so on.
    """
    from shared.runtime.held_keys import HeldKeys  # noqa: PLC0415  # --help stays light
    from shared.runtime.key_store import store_of  # noqa: PLC0415
    from shared.runtime.keys import Algorithm  # noqa: PLC0415

    store = store_of(key_store)
    if not isinstance(store, HeldKeys):
        raise click.UsageError("Name the plug-in that holds the key: --key-store KIND.")
    public = store.refer(file.absolute(), Algorithm(algorithm), label)
    facts = {"file": file.absolute(), "key_store": store.kind, "label": label, "public_key": public}
    emit(facts, as_json, lambda: f"{file} refers to {label}, with the public key {public.hex()}")


@key.command("show")
@_files
@json_option
def show(files: tuple[Path, ...], as_json: bool) -> None:
    """Say which kind of key store each FILE is for."""
    from shared.runtime.keys import read_key_file  # noqa: PLC0415  # --help stays light
    from shared.runtime.protecting import kind_of  # noqa: PLC0415

    kinds = [(str(path), kind_of(read_key_file(path))) for path in files]
    emit(
        [{"file": path, "kind": kind} for path, kind in kinds],
        as_json,
        lambda: table("key files", ["file", "kind"], [list(row) for row in kinds]),
    )


def _given(source: str | None) -> str:
    if source is None:
        raise click.UsageError("Say where the passphrase is: --passphrase-from SOURCE.")
    return source


def _told(files: tuple[Path, ...], changed: list[Path], state: str, as_json: bool) -> None:
    facts = [{"file": path, "changed": path in changed} for path in files]
    text = "\n".join(
        f"{path}: {state}" if path in changed else f"{path}: unchanged" for path in files
    )
    emit(facts, as_json, lambda: text)
