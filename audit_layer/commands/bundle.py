"""`counterfoil log bundle`: everything that an auditor needs to check one statement offline, in one file."""

from pathlib import Path

import click

from audit_layer.commands.options import FILE, config_option, core_of, entry_argument, settings_of
from shared.runtime.output import emit, json_option


@click.command("bundle")
@entry_argument
@click.option("--out", type=FILE, required=True, help="Write the bundle to this file.")
@config_option
@json_option
def bundle(entry: str, out: Path, config: Path, as_json: bool) -> None:
    """Bundle the statement ENTRY (its 64 hexadecimal digits or the first 12) with its proofs and the log policy.

    Check it anywhere with `counterfoil verify FILE`: it needs no network and no configuration.
    """
    from audit_layer.log.proof_service import ProofService  # noqa: PLC0415
    from audit_layer.trail.bundles import Bundles  # noqa: PLC0415  # --help stays light
    from audit_layer.trail.pages import find_entry  # noqa: PLC0415
    from audit_layer.wiring.audit_server import published  # noqa: PLC0415
    from audit_layer.wiring.log_keys import load_cose_key, log_policy  # noqa: PLC0415
    from shared.runtime.key_store import open_store  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    settings = settings_of(config)
    policy = log_policy(settings)
    with core_of(config) as core:
        proofs = ProofService(core.engine, published(settings), policy)
        bundles = Bundles(
            core.engine,
            proofs,
            policy,
            load_cose_key(settings.keys_folder, open_store(settings.key_store)),
        )
        wanted = find_entry(core.engine, entry)
        made = bundles.make(wanted)
    text = made.encode().encode()
    write_result(out, text)
    data = {"entry": wanted, "file": out, "bytes": len(text)}
    emit(data, as_json, lambda: f"Written to {out} ({len(text)} bytes)")
