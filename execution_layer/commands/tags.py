"""`counterfoil client tags` and `counterfoil client tag-key`: what blinded tags stand for, and the key that blinds them."""

from pathlib import Path
from typing import Any

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option


@click.command("tags")
@config_option
@click.option("--out", type=file_path, required=True, help="Write the tag book to this file.")
@click.option(
    "--merge",
    "others",
    type=file_path,
    multiple=True,
    help="Include this tag book, such as another machine's, or FILE of --out itself; repeatable.",
)
@json_option
def tags(config: Path, out: Path, others: tuple[Path, ...], as_json: bool) -> None:
    """Write what the tags of this client's orders are, by their blinded values: for your finance people.

    The tag book holds tags, and neither prompts nor keys. It is readable only by you; whom you give it to can group and name
    your costs, and learns nothing else.
    """
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.tag_export import book_of, write_book  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    opened = Archive(policy.archive)
    try:
        exported = book_of(policy.tenant, opened.tagged())
    finally:
        opened.close()
    written = write_book(out, exported.book, others)
    facts = {
        "file": out,
        "tenant": written.tenant,
        "values": len(written.entries),
        "left_out": exported.left_out,
    }
    emit(facts, as_json, lambda: _told(facts))


def _told(facts: dict[str, Any]) -> str:
    told = f"{facts['values']} blinded values of {facts['tenant']} in {facts['file']}"
    if not facts["left_out"]:
        return told
    return f"{told}; {facts['left_out']} orders left out: their tags are outside the limits of a tag book"


@click.group("tag-key")
def tag_key() -> None:
    """The key that blinds tags: one for all machines of the tenant.

    Costs of several machines add up by tag only if all of them have the same key. Make it on one machine, copy its file
    to the others as you would a password, and import it there.
    """


@tag_key.command("create")
@config_option
@json_option
def tag_key_create(config: Path, as_json: bool) -> None:
    """Make the key now, if there is none, and print where it is. The first tagged order would make it as well."""
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # --help stays light
    from execution_layer.client.tag_key import load_or_create_tag_key  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    load_or_create_tag_key(policy)
    _show(policy, as_json)


@tag_key.command("show")
@config_option
@json_option
def tag_key_show(config: Path, as_json: bool) -> None:
    """Print the key's file and a fingerprint, equal on machines with the same key; never the key itself."""
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # --help stays light

    _show(ClientPolicy.load(config), as_json)


@tag_key.command("import")
@config_option
@click.argument("file", type=file_path)
@json_option
def tag_key_import(config: Path, file: Path, as_json: bool) -> None:
    """Use the key in FILE, a copy of another machine's; a client that has another key already keeps it."""
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # --help stays light
    from execution_layer.client.tag_key import import_tag_key  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    import_tag_key(policy, file)
    _show(policy, as_json)


def _show(policy: Any, as_json: bool) -> None:
    from execution_layer.client.tag_key import tag_key_file  # noqa: PLC0415
    from shared.statements.tag_key_file import load_tag_key  # noqa: PLC0415

    path = tag_key_file(policy)
    fingerprint = load_tag_key(path).fingerprint if path.exists() else None
    emit(
        {"file": path, "fingerprint": fingerprint},
        as_json,
        lambda: f"{path}: {fingerprint or 'not made yet'}",
    )
