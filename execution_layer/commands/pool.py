"""`counterfoil pool`: chains of nodes that serve one model together. No torch, no node code."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from execution_layer.client.planning import Prefer


@click.group("pool")
def pool() -> None:
    """Find chains of nodes that serve a model together, and watch them."""


@pool.command("plan")
@config_option
@click.option(
    "--model",
    metavar="ROOT|FOLDER",
    help="Model root in hex, or a checkpoint's folder [default: the policy's].",
)
@click.option(
    "--prefer",
    type=click.Choice(["speed", "cost", "operators"]),
    default="speed",
    show_default=True,
    help="Least time for a token, lowest price (a million tokens in and out), or fewest operators.",
)
@click.option(
    "--at-most-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Only chains with no more time from a token to its next.",
)
@click.option(
    "--sequences",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="How many are answered at once.",
)
@click.option("--operator", "operators", multiple=True, help="Only these operators; repeatable.")
@click.option("--forbid-operator", "forbidden", multiple=True, help="Not this one; repeatable.")
@click.option("--most-operators", type=click.IntRange(0, 64), help="In one chain.")
@click.option("--region", "regions", multiple=True, help="Only where this is claimed; repeatable.")
@click.option("--forbid-region", "forbidden_regions", multiple=True, help="Repeatable.")
@click.option("--arithmetic", "arithmetics", multiple=True, help="Only this one; repeatable.")
@click.option(
    "--rtt",
    "round_trips",
    multiple=True,
    metavar="NODE[,NODE]=MS",
    help="Round trip from here to OPERATOR/NODE, or between two; repeatable.",
)
@click.option(
    "--layers",
    type=click.IntRange(1, 2**16),
    help="Layers of the model, if neither FOLDER nor a fetched tokenizer tells.",
)
@click.option("--plans", type=click.IntRange(1, 50), default=5, show_default=True)
@json_option
def plan(
    config: Path,
    model: str | None,
    prefer: "Prefer",
    at_most_ms: float | None,
    sequences: int,
    operators: tuple[str, ...],
    forbidden: tuple[str, ...],
    most_operators: int | None,
    regions: tuple[str, ...],
    forbidden_regions: tuple[str, ...],
    arithmetics: tuple[str, ...],
    round_trips: tuple[str, ...],
    layers: int | None,
    plans: int,
    as_json: bool,
) -> None:
    """Compute chains from what the directory's key bundles offer, and print the head's [chain] for the best one.

    Only nodes that the client's policy accepts are considered; the options replace its table [nodes]. Speeds and regions are
    the nodes' claims; a node whose receipts in the client's archive say that it is slower counts as that slow. Round trips are
    measured here: a TCP connection to each endpoint, the shortest of three. Between two nodes half of both round trips counts
    one way, as if they were joined by way of this machine: set with --rtt what is known better. A sequence gets a token each
    time that its states have gone all around, from head to head.
    """
    from execution_layer.client.planning import Wish  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.commands import planning  # noqa: PLC0415

    policy = planning.narrowed(
        ClientPolicy.load(config),
        operators=operators,
        forbidden_operators=forbidden,
        most_operators=most_operators,
        regions=regions,
        forbidden_regions=forbidden_regions,
        arithmetics=arithmetics,
    )
    wish = Wish(
        prefer,
        sequences,
        None if at_most_ms is None else at_most_ms / 1000,
        policy.nodes.most_operators,
        plans,
    )
    root, known = _model(model)
    facts = planning.planned(policy, root, layers or known, round_trips, wish)
    emit(facts, as_json, lambda: planning.shown(facts))


@pool.command("top")
@click.option("--config", type=file_path, required=True, help="The head's node.toml.")
@click.option("--once", is_flag=True, help="Print how it stands now, and end.")
@json_option
def top(config: Path, once: bool, as_json: bool) -> None:
    """Watch the chain of a running node: its stages, what is under way, how busy each is, and what comes of it.

    It reads a file that the node writes beside its spool once a second, so it must run on the node's machine, as a user who may
    read its folder. Rates are those of the last five seconds. How busy a stage is, it says itself; that affects nothing but how
    many steps are under way. With --json, one object on a line every second. Ends with Ctrl-C.
    """
    from execution_layer.commands import watching  # noqa: PLC0415  # --help stays light
    from execution_layer.node.settings import NodeSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    watching.watch(load(NodeSettings, config), once=once, as_json=as_json)


def _model(text: str | None) -> tuple[str | None, int | None]:
    """Return a model's root in hex and its number of layers, as far as the option tells."""
    if text is None or not Path(text).is_dir():
        return text, None
    from shared.model.root import model_root  # noqa: PLC0415  # without torch, but reads the whole checkpoint
    from shared.runtime.config import read_json  # noqa: PLC0415

    layers = read_json(Path(text) / "config.json").get("num_hidden_layers")
    return model_root(Path(text)).hex(), layers if type(layers) is int else None
