"""Adding, ending and listing an identity's keys: what `node operator-key` and `client key` have in common."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from shared.runtime.output import emit, json_option, table

if TYPE_CHECKING:
    from pathlib import Path

    from shared.parties.identity_log import IdentityLog
    from shared.parties.key_rotation import Owner
    from shared.runtime.keys import KeyStore

Command = Callable[..., None]
COLUMNS = ("state", "here", "added", "ended", "contested", "key", "reason")

timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for witnesses.",
)
reason_option = click.option("--reason", default="rotated", show_default=True, help="Why.")


def open_log(target: str, ca_file: "Path") -> "IdentityLog":
    """Return the audit server at host:port."""
    from shared.parties.identity_log import IdentityLog  # noqa: PLC0415  # --help stays light

    return IdentityLog(target, ca_file)


def rotate(
    owner: "Owner", store: "KeyStore", log: "IdentityLog", timeout_s: float, as_json: bool
) -> None:
    """Rotate, and say what to do next."""
    from shared.parties import key_rotation  # noqa: PLC0415  # --help stays light

    with log:
        done = key_rotation.rotate(owner, log, timeout_s=timeout_s, store=store)
    facts = {
        "name": owner.name,
        "key": done.new.hex(),
        "key_file": owner.file,
        "replaces": done.old.hex(),
        "log_index": done.index,
    }
    emit(
        facts,
        as_json,
        lambda: (
            f"{owner.file} now holds the key {done.new.hex()}; the log has it at index {done.index}.\n"
            f"The earlier key {done.old.hex()} is still good: end it once nothing signs with it any more."
        ),
    )


def end(
    owner: "Owner", store: "KeyStore", log: "IdentityLog", key: str, reason: str, as_json: bool
) -> None:
    """End a key that is given in hex."""
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.parties import key_rotation  # noqa: PLC0415

    ended = parse_hex32(key, "the key")
    with log:
        index = key_rotation.end(owner, log, ended, reason=reason, store=store)
    facts = {"name": owner.name, "key": ended.hex(), "reason": reason, "log_index": index}
    emit(facts, as_json, lambda: f"the key {ended.hex()} has ended, at index {index} of the log")


def show(owner: "Owner", store: "KeyStore", log: "IdentityLog", as_json: bool) -> None:
    """List the keys."""
    from shared.parties import key_rotation  # noqa: PLC0415  # --help stays light

    with log:
        rows = key_rotation.listing(owner, log, store=store)
    shown = [[str(row[name]) for name in COLUMNS] for row in rows]
    emit(
        {"name": owner.name, "keys": rows},
        as_json,
        lambda: table(f"keys of {owner.name}", list(COLUMNS), shown),
    )


__all__ = ["end", "json_option", "open_log", "reason_option", "rotate", "show", "timeout_option"]
