"""`counterfoil node stage`: a range of a model's layers for a node of the same operator. Heavy imports are deferred."""

from pathlib import Path

import click

from shared.runtime.output import emit, json_option

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)
CONFIG = "stage.toml"


@click.group("stage")
def stage() -> None:
    """Compute some of a model's layers for a node that has not memory for all of them."""


@stage.command("init")
@click.option("--folder", type=_folder, required=True, help="Folder for the stage's files.")
@click.option("--name", required=True, help="OPERATOR/NAME.")
@click.option("--model", type=_folder, required=True, help="Folder of the checkpoint.")
@click.option("--layers", required=True, help="FIRST:LAST, without LAST: 4:8 are layers 4 to 7.")
@click.option(
    "--caller", "callers", multiple=True, required=True, help="OPERATOR/NODE that may use it."
)
@click.option(
    "--address", required=True, help="host:port where the node and other stages call this one."
)
@click.option("--local-ca", type=_folder, help="Local authority that issues the certificates.")
@click.option("--host", "hosts", multiple=True, help="Name or address in the certificate.")
@click.option("--tls-cert", type=_file)
@click.option("--tls-key", type=_file)
@click.option("--tls-ca", type=_file)
@click.option(
    "--party-cert", type=_file, help="Certificate that names it counterfoil://party/node/NAME."
)
@click.option("--party-key", type=_file)
@click.option("--party-ca", type=_file, help="Authorities of its callers' certificates.")
@click.option("--next-ca", type=_file, help="Authority of later stages [default: its own].")
@click.option("--threads", type=click.IntRange(1, 512), default=1, show_default=True)
@click.option("--arithmetic", default="auto", show_default=True, help="As the node's.")
@click.option("--kv-memory-mib", type=click.IntRange(1, 2**22), default=512, show_default=True)
@json_option
def init(
    folder: Path,
    name: str,
    model: Path,
    layers: str,
    callers: tuple[str, ...],
    address: str,
    local_ca: Path | None,
    hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    party_cert: Path | None,
    party_key: Path | None,
    party_ca: Path | None,
    next_ca: Path | None,
    threads: int,
    arithmetic: str,
    kv_memory_mib: int,
    as_json: bool,
) -> None:
    """Write FOLDER/stage.toml. If run again, it writes it anew."""
    from execution_layer.node.setup import (  # noqa: PLC0415  # --help stays light
        party_files,
        settled,
        tls_files,
    )
    from execution_layer.pipeline.settings import StageSettings  # noqa: PLC0415
    from shared.runtime.config import to_toml  # noqa: PLC0415
    from shared.runtime.keys import private_folder, write_private  # noqa: PLC0415
    from shared.runtime.party import PartyListener  # noqa: PLC0415

    folder = folder.absolute()
    private_folder(folder)
    tls = tls_files(
        name.replace("/", "-"),
        folder,
        local_ca=local_ca,
        cert=tls_cert,
        key=tls_key,
        ca=tls_ca,
        hosts=hosts,
    )
    party = party_files(
        name, folder, local_ca=local_ca, cert=party_cert, key=party_key, ca=party_ca
    )
    settings = settled(
        StageSettings,
        name=name,
        model=model.absolute(),
        layers=layers,
        callers=callers,
        next_ca=(next_ca or tls.ca).absolute(),
        threads=threads,
        arithmetic=arithmetic,
        kv_memory_mib=kv_memory_mib,
        tls=tls,
        party=settled(PartyListener, **dict(party), address=address),
    )
    write_private(folder / CONFIG, to_toml(settings).encode())
    facts = {"config": folder / CONFIG, "name": name, "layers": layers, "callers": list(callers)}
    emit(
        facts, as_json, lambda: f"stage {name}: layers {layers}, configuration in {folder / CONFIG}"
    )


@stage.command("serve")
@click.option("--config", type=_file, required=True, help="The stage's configuration (stage.toml).")
@click.option("--ready-file", type=_file, help="File to write once the stage answers.")
def serve(config: Path, ready_file: Path | None) -> int:
    """Serve until SIGTERM or SIGINT."""
    from execution_layer.pipeline.settings import StageSettings  # noqa: PLC0415  # --help stays light
    from execution_layer.wiring.stage import serve_stage  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(StageSettings, config, env_prefix="COUNTERFOIL_STAGE")
    return serve_stage(settings, ready_file=ready_file)
