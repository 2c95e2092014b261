"""`counterfoil log`: the published checkpoint, proofs, and checking everything."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audit_layer.commands.monitor import mirror
from audit_layer.commands.options import FILE, config_option, core_of, entry_argument, settings_of
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from audit_layer.log.proof_service import ProofService
    from audit_layer.wiring.audit_server import Core

DAMAGED = 3
"""Exit code when fsck finds a difference: verification failed."""


@click.group("log")
def log() -> None:
    """Read and check the log of this audit server."""


log.add_command(mirror)


def _proofs(config: Path, core: "Core") -> "ProofService":
    from audit_layer.log.proof_service import ProofService  # noqa: PLC0415
    from audit_layer.wiring.audit_server import published  # noqa: PLC0415
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415  # --help stays light

    settings = settings_of(config)
    return ProofService(core.engine, published(settings), log_policy(settings))


@log.command("checkpoint")
@config_option
@json_option
def checkpoint(config: Path, as_json: bool) -> None:
    """Print the newest witnessed checkpoint, a signed note."""
    with core_of(config) as core:
        found = _proofs(config, core).witnessed()
    note = found.note.encode()
    data = {
        "origin": found.checkpoint.origin,
        "size": found.checkpoint.size,
        "root": found.checkpoint.root,
        "witnesses": found.times,
        "note": note,
    }
    emit(data, as_json, lambda: note.rstrip("\n"))


@log.command("policy")
@config_option
@click.option("--out", type=FILE, help="Write the policy to this file.")
@json_option
def policy(config: Path, out: Path | None, as_json: bool) -> None:
    """Print the log policy (C2SP tlog-policy): the log's keys, its witnesses and the quorum, for monitors and verifiers."""
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import PUBLIC_FILE, write_result  # noqa: PLC0415
    from shared.translog.policy_file import PolicyFile  # noqa: PLC0415

    text = PolicyFile.of(log_policy(settings_of(config))).encode()
    if out is not None:
        write_result(out, text.encode(), mode=PUBLIC_FILE)
    emit({"policy": text}, as_json, lambda: f"Written to {out}" if out else text.rstrip("\n"))


@log.command("proof")
@entry_argument
@config_option
@click.option("--out", type=FILE, help="Write the .tlog-proof to this file.")
@json_option
def proof(entry: str, config: Path, out: Path | None, as_json: bool) -> None:
    """Prove that ENTRY (its 64 hexadecimal digits or the first 12) is in the log, as of the newest witnessed checkpoint."""
    from audit_layer.trail.pages import find_entry  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import write_result  # noqa: PLC0415

    with core_of(config) as core:
        wanted = find_entry(core.engine, entry)
        found = _proofs(config, core).prove(wanted)
    text = found.encode()
    if out is not None:
        write_result(out, text.encode())
    data = {"entry": wanted, "index": found.index, "tlog_proof": text}
    emit(data, as_json, lambda: f"Written to {out}" if out else text.rstrip("\n"))


@log.command("fsck")
@config_option
@json_option
def fsck(config: Path, as_json: bool) -> int:
    """Recompute the log, its files and the trail from what was signed. Exit code 3 when something differs."""
    from audit_layer.trail.fsck_whole import check_all  # noqa: PLC0415  # --help stays light
    from audit_layer.wiring.audit_server import (  # noqa: PLC0415
        published,
        second_place,
        timestamp_anchors,
    )
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415

    settings = settings_of(config)
    policy = log_policy(settings)
    with core_of(config) as core:
        findings = check_all(
            core.engine,
            policy=policy,
            files=published(settings),
            second_place=second_place(settings, policy),
            anchors=timestamp_anchors(settings),
        )
    emit(
        {"findings": findings},
        as_json,
        lambda: "\n".join(findings) or "The log and the trail are as they were signed.",
    )
    return DAMAGED if findings else 0


@log.command("republish")
@config_option
@json_option
def republish(config: Path, as_json: bool) -> None:
    """Restore missing files of the published log from the database, the checkpoint last. No server may be running."""
    from rich.console import Console  # noqa: PLC0415  # --help stays light
    from rich.progress import Progress  # noqa: PLC0415

    from audit_layer.log.republish import republish as write_missing  # noqa: PLC0415
    from audit_layer.wiring.audit_server import published, second_place  # noqa: PLC0415
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415

    settings = settings_of(config)
    place = second_place(settings, log_policy(settings))
    with core_of(config) as core, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("files", total=None)
        written = write_missing(
            core.engine,
            published(settings),
            place,
            lambda done, of: progress.update(task, completed=done, total=of),
        )
    emit({"written": written}, as_json, lambda: f"{written} missing files were restored.")
