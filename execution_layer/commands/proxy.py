"""`counterfoil proxy`: an OpenAI-compatible server on the application's own machine. No torch, no node code."""

from pathlib import Path
from typing import Any, Final

import click

from execution_layer.commands.options import config_option as client_option
from execution_layer.commands.options import file_path, folder_path
from shared.runtime.output import emit, json_option, table

config_option: Final = click.option(
    "--config",
    type=file_path,
    required=True,
    envvar="COUNTERFOIL_PROXY_CONFIG",
    show_envvar=True,
    help="The proxy's configuration (proxy.toml).",
)


@click.group("proxy")
def proxy() -> None:
    """Answer applications that speak the OpenAI API, with sealed, ordered and checked requests."""


@proxy.command("init")
@click.option("--folder", type=folder_path, required=True, help="Configuration and API keys.")
@client_option
@click.option("--address", default="127.0.0.1:8411", show_default=True, help="host:port.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=ROOT",
    help="A name by which applications ask for a model; repeatable [default: `default` for the policy's].",
)
@click.option("--cert", type=file_path, help="Certificate, to serve other machines over TLS.")
@click.option("--key", type=file_path, help="Its key.")
@click.option("--ca", type=file_path, help="Its authority.")
@json_option
def init(
    folder: Path,
    config: Path,
    address: str,
    models: tuple[str, ...],
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Write FOLDER/proxy.toml for the client of --config. API keys that are there are kept."""
    from execution_layer.client.setup import pairs  # noqa: PLC0415  # --help stays light
    from execution_layer.proxy.setup import write_proxy  # noqa: PLC0415

    given = {"cert": cert, "key": key, "ca": ca}
    files = {name: path.absolute() for name, path in given.items() if path is not None}
    if len(files) not in {0, len(given)}:
        raise click.UsageError("give all of --cert, --key and --ca, or none")
    facts = write_proxy(folder, config, address, pairs(models, "--model"), files or None)
    emit(facts, as_json, lambda: f"{facts['config']}: {facts['base_url']}")


@proxy.command("serve")
@config_option
@click.option("--ready-file", type=file_path)
def serve(config: Path, ready_file: Path | None) -> int:
    """Serve until told to stop."""
    from execution_layer.proxy.settings import ProxySettings  # noqa: PLC0415  # --help stays light
    from execution_layer.wiring.proxy import serve_proxy  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415
    from shared.runtime.readiness import run_service  # noqa: PLC0415

    settings = load(ProxySettings, config)
    return run_service(lambda stop: serve_proxy(settings, ready_file, stop))


@proxy.group("key")
def key() -> None:
    """API keys of applications, each with the tags of its orders."""


@key.command("add")
@click.argument("name")
@config_option
@click.option("--cost-centre", help="Short for --tag cost_centre=TEXT.")
@click.option(
    "--tag",
    multiple=True,
    metavar="NAME=VALUE",
    help="Tag of all orders with this key; blinded in the log, yours in the exports; repeatable.",
)
@json_option
def add(
    name: str, config: Path, cost_centre: str | None, tag: tuple[str, ...], as_json: bool
) -> None:
    """Make an API key for the application NAME and show it, this once."""
    from execution_layer.client.options import tag_pairs, tags_of  # noqa: PLC0415  # --help stays light

    tags = tags_of({"tags": tag_pairs(tag) or None, "cost_centre": cost_centre}) or {}
    with _keys(config) as keys:
        made, secret = keys.add(name, tags)
    facts = {"id": made.id, "name": made.name, "tags": made.tags, "key": secret}
    emit(
        facts, as_json, lambda: f"{secret}\nKeep it: it cannot be shown again. Its id is {made.id}."
    )


@key.command("list")
@config_option
@json_option
def list_keys(config: Path, as_json: bool) -> None:
    """List the API keys, without their secrets."""
    from shared.codec.moment import to_rfc3339  # noqa: PLC0415  # --help stays light

    def at(moment: int | None) -> str | None:
        return None if moment is None else to_rfc3339(moment)

    with _keys(config) as keys:
        facts = [
            {
                "id": one.id,
                "name": one.name,
                "tags": one.tags,
                "created": at(one.created),
                "revoked": at(one.revoked),
            }
            for one in keys.all()
        ]

    def shown() -> Any:
        rows = [
            (
                one["id"],
                one["name"],
                ", ".join(f"{name}={value}" for name, value in dict(one["tags"]).items()),
                one["created"],
                one["revoked"] or "",
            )
            for one in facts
        ]
        return table("API keys", ("id", "name", "tags", "created", "revoked"), rows)

    emit(facts, as_json, shown)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def revoke(key_id: str, config: Path, as_json: bool) -> None:
    """Refuse the API key with this ID from the next request on."""
    with _keys(config) as keys:
        ended = keys.revoke(key_id)
    emit(
        {"id": ended.id, "name": ended.name, "revoked": True},
        as_json,
        lambda: f"{ended.name} ({ended.id}) is revoked.",
    )


def _keys(config: Path) -> Any:
    from execution_layer.proxy.api_keys import ApiKeys  # noqa: PLC0415  # --help stays light
    from execution_layer.proxy.settings import ProxySettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    return ApiKeys(load(ProxySettings, config).keys_file)
