"""`counterfoil node`: set up, serve, drain, inspect and invoice. Heavy imports are deferred to their command."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from execution_layer.commands.node_keys import revoke, roll
from execution_layer.commands.operator_key import operator_key
from execution_layer.commands.stage import stage
from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings


_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)

config_option = click.option(
    "--config", type=_file, required=True, help="The node's configuration (node.toml)."
)


@click.group("node")
def node() -> None:
    """Run a node: identity, rate card, configuration, service, invoice."""


node.add_command(revoke)
node.add_command(roll)
node.add_command(operator_key)
node.add_command(stage)


@node.command("operator-init")
@click.option("--folder", type=_folder, required=True, help="Folder for the identity key.")
@click.option("--operator", "name", required=True, help="The operator's name.")
@key_store_options
@json_option
def operator_init(
    folder: Path, name: str, key_store: "KeyStoreSettings | None", as_json: bool
) -> None:
    """Create an operator's identity key, which clients and the audit layer pin.
    If run again, it prints the same key.
    """
    from execution_layer.node.operators import Operator  # noqa: PLC0415  # --help stays light

    operator = Operator.create(folder.absolute(), name, key_store)
    facts = {
        "operator": operator.name,
        "operator_key": operator.public_hex,
        "operator_key_file": operator.key_file,
    }
    emit(facts, as_json, lambda: f"operator {operator.name}: public key {operator.public_hex}")


@node.command("rate-card")
@click.option("--operator-folder", type=_folder, required=True)
@click.option("--name", default="standard", show_default=True, help="The card's name.")
@click.option("--model", type=_folder, help="Checkpoint to which the prices apply.")
@click.option("--model-root", help="Or: its model root in hex.")
@click.option("--price-input", required=True, help="Price of input tokens, e.g. 0.30.")
@click.option("--price-cached", help="Price of cached input tokens [default: the input price].")
@click.option("--price-output", required=True, help="Price of output tokens.")
@click.option(
    "--per",
    type=click.Choice(["1", "1000", "1000000"]),
    default="1000000",
    show_default=True,
    help="Number of tokens to which a price applies.",
)
@click.option("--currency", required=True, help="ISO 4217 code.")
@click.option("--valid-from", help="RFC 3339 time [default: now].")
@click.option("--out", type=_file, required=True, help="File for the signed statement.")
@json_option
def rate_card(
    operator_folder: Path,
    name: str,
    model: Path | None,
    model_root: str | None,
    price_input: str,
    price_cached: str | None,
    price_output: str,
    per: str,
    currency: str,
    valid_from: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Sign the prices for one model. Nodes publish the card in the log when they start."""
    from execution_layer.node.operators import (  # noqa: PLC0415  # --help stays light
        Operator,
        price,
    )
    from execution_layer.node.operators import rate_card as make_card  # noqa: PLC0415
    from shared.codec.moment import now_ms, parse_rfc3339  # noqa: PLC0415
    from shared.runtime.keys import PUBLIC_FILE, write_result  # noqa: PLC0415

    root = _model_root(model, model_root)
    prices = price(
        root,
        fresh=price_input,
        cached=price_cached or price_input,
        output=price_output,
        per=int(per),
    )
    operator = Operator.load(operator_folder.absolute())
    start = now_ms() if valid_from is None else parse_rfc3339(valid_from, "--valid-from")
    statement, entry = operator.sign_rate_card(
        make_card(operator, name, currency, (prices,), start)
    )
    write_result(out, statement, mode=PUBLIC_FILE)
    facts = {"rate_card": entry, "file": out.absolute(), "model_root": root, "currency": currency}
    emit(facts, as_json, lambda: f"rate card {entry.hex()} in {out}")


@node.command("init")
@click.option("--folder", type=_folder, required=True, help="Folder for all of the node's files.")
@click.option("--operator-folder", type=_folder, required=True, help="See operator-init.")
@click.option("--name", required=True, help="The node's name.")
@click.option("--model", type=_folder, required=True, help="Folder of the checkpoint.")
@click.option("--rate-card", type=_file, required=True, help="See rate-card.")
@click.option(
    "--audit-target", required=True, help="host:port where the audit server takes calls of parties."
)
@click.option("--audit-ca", type=_file, help="Authority of its certificate [default: the node's].")
@click.option(
    "--trust",
    type=_file,
    required=True,
    help="JSON: the log, the audit authority's key and the audit workers that the node trusts, as for custodians.",
)
@click.option("--tenants", type=_file, help="File of tenants [default: FOLDER/tenants.toml].")
@click.option("--address", default="127.0.0.1:0", show_default=True, help="Where to listen.")
@click.option("--endpoint", help="host:port published to clients [default: the bound address].")
@click.option("--local-ca", type=_folder, help="Local authority that issues the certificate.")
@click.option("--host", "hosts", multiple=True, help="Name or address in that certificate.")
@click.option(
    "--party-cert",
    type=_file,
    help="Certificate that names this node to others [default: issued by --local-ca].",
)
@click.option("--party-key", type=_file)
@click.option("--party-ca", type=_file, help="Authorities of the audit workers' certificates.")
@click.option(
    "--party-address",
    default="127.0.0.1:0",
    show_default=True,
    help="Where audit workers call with their certificates.",
)
@click.option(
    "--party-endpoint", help="host:port published to audit workers [default: the bound address]."
)
@click.option("--tls-cert", type=_file)
@click.option("--tls-key", type=_file)
@click.option("--tls-ca", type=_file)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="What computes the model: processors, or the first NVIDIA GPU.",
)
@click.option("--threads", type=click.IntRange(1, 512), default=1, show_default=True)
@click.option(
    "--arithmetic",
    default="auto",
    show_default=True,
    help="The definition of every operation, such as chain-1. auto: the one of the device's own matrix unit.",
)
@click.option("--max-batch", type=click.IntRange(1, 1024), default=16, show_default=True)
@click.option("--prefill-rows", type=click.IntRange(1, 2**16), default=256, show_default=True)
@click.option(
    "--kv-memory-mib",
    type=click.IntRange(1, 2**22),
    default=512,
    show_default=True,
    help="The device's memory for KV blocks.",
)
@click.option(
    "--max-model-len",
    type=click.IntRange(1, 2**22),
    help="Longest sequence, prompt plus answer [default: the model's context].",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    help="[OPERATOR/NODE@]ADDRESS[,SPARE…]=FIRST:LAST: a stage that computes these layers, without LAST; in order. With a name it"
    " answers for itself; without, see `node stage`, and it may have spares.",
)
@click.option(
    "--stages-ca",
    type=_file,
    help="Authority of the stages, or of those that may follow this one [default: the node's].",
)
@click.option(
    "--layers",
    help="FIRST:LAST: be a stage that computes these layers, without LAST, for others' answers, and is paid for it.",
)
@click.option(
    "--caller",
    "callers",
    multiple=True,
    help="OPERATOR/NODE: with --layers, a head that may order, or a stage before this one.",
)
@click.option("--region", help="Where the node is, for clients who choose by distance.")
@click.option("--max-output-tokens", type=click.IntRange(1, 2**20), default=4096, show_default=True)
@click.option("--in-flight-per-tenant", type=click.IntRange(1, 4096), default=64, show_default=True)
@click.option("--gpu-energy/--no-gpu-energy", default=False, help="Read NVML's energy counter.")
@click.option("--reflection/--no-reflection", default=False, help="Offer gRPC reflection.")
@key_store_options
@json_option
def init(folder: Path, operator_folder: Path, name: str, as_json: bool, **chosen: Any) -> None:
    """Write FOLDER/node.toml and the node's keys; print what others must know.

    If run again, it keeps the keys and rewrites the configuration. The file lists every setting, including those without
    an option here: queues, retention, frames.
    """
    from execution_layer.node.operators import Operator  # noqa: PLC0415  # --help stays light
    from execution_layer.node.setup import write_node  # noqa: PLC0415
    from execution_layer.node.setup_options import chosen_settings  # noqa: PLC0415

    folder = folder.absolute()
    operator = Operator.load(operator_folder.absolute())
    settings = chosen_settings(folder, operator, name, **chosen)
    facts = write_node(folder, operator, settings)
    emit(facts, as_json, lambda: f"node {settings.issuer}: configuration in {facts['config']}")


@node.command("add-tenant")
@config_option
@click.option("--tenant", required=True, help="The tenant's name.")
@click.option("--key", required=True, help="Its public key in hex (`counterfoil client init`).")
@json_option
def add_tenant(config: Path, tenant: str, key: str, as_json: bool) -> None:
    """Allow a tenant to order from this node. A running node notices at once."""
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415  # --help stays light
    from execution_layer.node.setup import add_tenant as add  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    path = load(NodeSettings, config).tenants_file
    count = add(path, tenant, key)
    facts = {"tenant": tenant, "tenants_file": path, "tenants": count}
    emit(facts, as_json, lambda: f"{path} lists {count} tenants")


@node.command("serve")
@config_option
@click.option("--ready-file", type=_file, help="File to write once the node answers.")
def serve(config: Path, ready_file: Path | None) -> int:
    """Serve until SIGTERM or SIGINT. SIGUSR1 (or `node drain`) refuses new requests."""
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from execution_layer.wiring.node import serve as serve_node  # noqa: PLC0415  # --help stays light
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(NodeSettings, config, env_prefix="COUNTERFOIL_NODE")
    return serve_node(settings, ready_file=ready_file)


@node.command("drain")
@config_option
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True
)
@json_option
def drain(config: Path, timeout_s: float, as_json: bool) -> None:
    """Make a running node refuse new requests, and wait until none is in flight."""
    from execution_layer.node.inspection import drain_node  # noqa: PLC0415  # --help stays light
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(NodeSettings, config)
    drain_node(settings, timeout_s=timeout_s)
    emit(
        {"node": settings.issuer, "drained": True},
        as_json,
        lambda: f"{settings.issuer} is drained: it accepts no new requests, and none is in flight",
    )


@node.command("status")
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show a node's state: key bundle, spool, requests in flight, and the longest sequence that it accepts."""
    from execution_layer.node.inspection import node_status  # noqa: PLC0415  # --help stays light
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    facts = node_status(load(NodeSettings, config))
    emit(facts, as_json, lambda: "\n".join(f"{name:<18} {value}" for name, value in facts.items()))


@node.command("deposit")
@click.argument("receipt")
@config_option
@json_option
def deposit(receipt: str, config: Path, as_json: bool) -> None:
    """Hand in the evidence of RECEIPT (its entry, or the first 12 digits) for an auditor who could not get it.

    Do so before the deadline that `counterfoil audit explain` shows: evidence that is withheld counts against the node.
    The audit layer takes only what the receipt and this node's signature cover. It works while the node is down, too.
    """
    from execution_layer.node.handing_in import hand_in  # noqa: PLC0415  # --help stays light
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    done = hand_in(load(NodeSettings, config), receipt)
    emit(
        {"receipt": done.entry, "bytes": done.size},
        as_json,
        lambda: (
            f"The audit layer has the evidence of receipt {done.entry.hex()} ({done.size} bytes)."
        ),
    )


@node.command("invoice")
@click.option(
    "--config",
    "configs",
    type=_file,
    required=True,
    multiple=True,
    help="Configuration of one of the operator's nodes; may be repeated.",
)
@click.option("--period", help="Month as YYYY-MM, in UTC [default: the current one].")
@click.option("--invoice-id", help="[default: built from operator, period and a random part]")
@click.option("--out", type=_file, required=True, help="The invoice, as JSON.")
@json_option
def invoice(
    configs: tuple[Path, ...], period: str | None, invoice_id: str | None, out: Path, as_json: bool
) -> None:
    """Write the operator's invoice for a month, from the nodes' own meters."""
    from execution_layer.node.billing import invoice_nodes, write_invoice  # noqa: PLC0415

    made = invoice_nodes(configs, period, invoice_id)
    write_invoice(made, out)
    facts = {
        "invoice_id": made.invoice_id,
        "operator": made.operator,
        "file": out.absolute(),
        "lines": len(made.lines),
        "total": made.total,
        "currency": made.currency,
    }
    emit(facts, as_json, lambda: f"{out}: {made.total} {made.currency} in {len(made.lines)} lines")


def _model_root(model: Path | None, root_hex: str | None) -> bytes:
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.model.root import model_root  # noqa: PLC0415
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415

    if (model is None) == (root_hex is None):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "pass either --model or --model-root, but not both"
        )
    if model is not None:
        return model_root(model)
    assert root_hex is not None
    return parse_hex32(root_hex, "--model-root")
