"""`counterfoil infer`, `counterfoil verify`, `counterfoil client`. No torch, no node code."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from execution_layer.commands.archive import archive, recipient_key, share
from execution_layer.commands.auditing import ask_audit, audits
from execution_layer.commands.canaries import canaries
from execution_layer.commands.client_key import key
from execution_layer.commands.history import compare, evidence, view
from execution_layer.commands.options import config_option, file_path, folder_path
from execution_layer.commands.resume import resume
from execution_layer.commands.tags import tag_key, tags
from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings


@click.command("infer")
@config_option
@click.argument("prompt", required=False)
@click.option("--file", "file", type=file_path, help="JSON Lines of requests, instead of PROMPT.")
@click.option("--system", help="System prompt.")
@click.option("--raw", is_flag=True, help="Send PROMPT verbatim, not as a user's message.")
@click.option("--max-tokens", type=click.IntRange(1, 2**20), default=256, show_default=True)
@click.option("--temperature", default="1", show_default=True)
@click.option("--top-p", default="1", show_default=True)
@click.option("--top-k", type=click.IntRange(0, 2**20), default=0, help="0: off.")
@click.option(
    "--min-p", default="0", help="Minimum fraction of the likeliest token's probability. 0: off."
)
@click.option(
    "--repetition-penalty", default="1", help="Applies to tokens of prompt and answer. 1: off."
)
@click.option("--presence-penalty", default="0", help="Applies to tokens of the answer. 0: off.")
@click.option(
    "--frequency-penalty", default="0", help="Applies per occurrence in the answer. 0: off."
)
@click.option("--stop", multiple=True, help="Stop string; may be repeated.")
@click.option(
    "--stop-token-id",
    "stop_token_ids",
    multiple=True,
    type=int,
    help="Stop token; may be repeated.",
)
@click.option(
    "--logprobs",
    type=click.IntRange(0, 20),
    help="Show each token's log-probability and those of this many most likely tokens.",
)
@click.option("--n", type=click.IntRange(1, 128), help="Number of answers, each with a receipt.")
@click.option("--seed", type=int, help="Sampling seed [default: from the transcript secret].")
@click.option("--cost-centre", help="Short for --tag cost_centre=TEXT.")
@click.option(
    "--tag",
    multiple=True,
    metavar="NAME=VALUE",
    help="Tag for your own books; blinded in the log, yours in the exports; may be repeated.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 8),
    help="Seal for this many nodes at once: each can read the request, and a retry at one needs no other envelope.",
)
@click.option(
    "--failover",
    type=click.Choice(["again", "continue"]),
    help="When a node breaks off: begin again elsewhere, or go on after what was delivered.",
)
@click.option(
    "--slots",
    type=click.IntRange(20, 10_000),
    metavar="MS",
    help="Have a frame of constant size every MS milliseconds, whatever the answer is.",
)
@click.option(
    "--audit",
    type=click.Choice(["sampled", "always", "never"]),
    help="Who may open it later: an audit by lot, one that you ask for in any case (and pay), nobody.",
)
@click.option("--node", help="Use only this node (NAME or OPERATOR/NAME).")
@click.option("--spread", is_flag=True, help="With --file: give each node an equal share.")
@click.option(
    "--explain", is_flag=True, help="Show what was checked, and what is trusted, before sending."
)
@click.option("--dry-run", is_flag=True, help="Like --explain, and stop before sending.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=8, show_default=True)
@json_option
def infer(
    config: Path,
    prompt: str | None,
    file: Path | None,
    system: str | None,
    raw: bool,
    n: int | None,
    seed: int | None,
    cost_centre: str | None,
    tag: tuple[str, ...],
    candidates: int | None,
    failover: str | None,
    slots: int | None,
    audit: str | None,
    node: str | None,
    spread: bool,
    explain: bool,
    dry_run: bool,
    concurrency: int,
    as_json: bool,
    **sampling: Any,
) -> int:
    """Order and run sealed requests; an answer is believed only after its receipt has been checked.

    With --json, one line of JSON per request, and before it one per attempt with --explain.
    """
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # --help stays light
    from execution_layer.client.prompts import read_prompts  # noqa: PLC0415
    from execution_layer.commands import infer as running  # noqa: PLC0415

    if (prompt is None) == (file is None):
        raise click.UsageError("pass either PROMPT or --file FILE")
    chosen = {"slots_ms": slots, "failover": failover, "candidates": candidates, "audit": audit}
    policy = ClientPolicy.load(config).model_copy(
        update={name: value for name, value in chosen.items() if value is not None}
    )
    if file is None:
        line = running.line_of(
            prompt or "",
            system,
            raw,
            seed=seed,
            tag=tag,
            cost_centre=cost_centre,
            sampling=sampling,
        )
        explained = running.Explained(explain or dry_run, stop=dry_run)
        return running.infer_one(policy, line, node, n, as_json, explained)
    if explain or dry_run:
        raise click.UsageError("--explain and --dry-run are for one PROMPT")
    if n is not None:
        raise click.UsageError("--n is for one PROMPT")
    if tag or cost_centre is not None:
        raise click.UsageError(
            "--tag and --cost-centre are for one PROMPT; in FILE, each line has its own"
        )
    return running.infer_file(policy, read_prompts(file), concurrency, node, spread, as_json)


@click.command("verify")
@click.argument("what", metavar="BUNDLE|ENTRY")
@click.option(
    "--policy", "policy_file", type=file_path, help="Your own log policy (C2SP tlog-policy text)."
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    help="NAME=KEY (hex): the key that you trust for an operator, party, tenant, or the log's origin; repeatable.",
)
@click.option(
    "--config",
    type=file_path,
    envvar="COUNTERFOIL_CLIENT_CONFIG",
    show_envvar=True,
    help="The client's policy (client.toml); its pins are trusted, and its archive holds ENTRY.",
)
@click.option(
    "--recipient-key",
    type=file_path,
    help="Your key, if the file is a share that is sealed to you.",
)
@json_option
@click.pass_context
def verify(
    context: click.Context,
    what: str,
    policy_file: Path | None,
    signers: tuple[str, ...],
    config: Path | None,
    recipient_key: Path | None,
    as_json: bool,
) -> int:
    """Verify a bundle offline: no network, no database, no configuration.

    BUNDLE is a file made by `log bundle`, `client archive show --export` or `client share`; of a share, prompt and answer
    are shown once every step holds. What you pass as --policy, --signer or
    --config is trusted instead of what the bundle says about itself. A configuration named by the environment is
    ignored if the bundle is from another log. ENTRY, with --config, is a receipt in the archive (or `latest`),
    whose whole stream is then rechecked. Exit code 3 if a step fails.
    """
    from execution_layer.commands.verifying import (  # noqa: PLC0415  # --help stays light
        verify_archived,
        verify_file,
    )

    if not Path(what).is_file():
        if config is None:
            raise click.UsageError(f"{what} is not a file, and an ENTRY needs --config")
        return verify_archived(config, what, as_json)
    implied = context.get_parameter_source("config") is ParameterSource.ENVIRONMENT
    return verify_file(
        Path(what), config, policy_file, signers, recipient_key, implied=implied, as_json=as_json
    )


@click.group("client")
def client() -> None:
    """Set up a tenant's client; fetch proofs; inspect the archive; read tags."""


client.add_command(resume)
client.add_command(tags)
client.add_command(tag_key)
for command in (archive, view, compare, evidence, share, recipient_key):
    client.add_command(command)
client.add_command(key)
client.add_command(ask_audit)
client.add_command(audits)
client.add_command(canaries)


@client.command("init")
@click.option(
    "--folder", type=folder_path, required=True, help="Folder for key, policy and archive."
)
@click.option("--tenant", required=True, help="The tenant's name.")
@click.option("--facts", type=file_path, help="JSON file of public facts; flags add to it.")
@click.option("--audit-target", help="host:port of the audit server's gRPC.")
@click.option("--ca", "ca_file", type=file_path, help="Authority of all certificates.")
@click.option("--model-root", help="Default model root in hex.")
@click.option("--operator", "operators", multiple=True, help="NAME=KEY (hex) to pin; repeatable.")
@click.option(
    "--rate-card",
    "rate_cards",
    multiple=True,
    metavar="OPERATOR[/NODE]=ENTRY",
    help="Entry in hex, of an operator's rate card or that of one node; repeatable.",
)
@click.option("--custodian", "custodians", multiple=True, help="NAME=HPKE key in hex; repeatable.")
@click.option("--threshold", type=click.IntRange(1, 16), help="Custodians needed to open.")
@click.option("--log-key", "log_keys", multiple=True, help="vkey of the log; repeatable.")
@click.option("--witness", "witnesses", multiple=True, help="vkey of a witness; repeatable.")
@click.option("--quorum", type=click.IntRange(1, 64), help="Witnesses needed.")
@click.option("--mirror", "mirrors", multiple=True, help="https:// address of a copy; repeatable.")
@key_store_options
@json_option
def init(
    folder: Path,
    tenant: str,
    facts: Path | None,
    audit_target: str | None,
    ca_file: Path | None,
    model_root: str | None,
    operators: tuple[str, ...],
    rate_cards: tuple[str, ...],
    custodians: tuple[str, ...],
    threshold: int | None,
    log_keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    quorum: int | None,
    mirrors: tuple[str, ...],
    key_store: "KeyStoreSettings | None",
    as_json: bool,
) -> None:
    """Create a tenant's key and FOLDER/client.toml; print the public key for operators and auditors.
    If run again, it keeps the key and the archive and rewrites the policy.
    """
    from execution_layer.client.setup import pairs, read_facts, write_client  # noqa: PLC0415

    known = read_facts(facts) if facts is not None else {}
    cards = {name: [entry] for name, entry in pairs(rate_cards, "--rate-card").items()}
    holders = [
        {"name": name, "hpke_key": key} for name, key in pairs(custodians, "--custodian").items()
    ]
    given: dict[str, Any] = {
        "audit_target": audit_target,
        "ca_file": None if ca_file is None else ca_file.absolute(),
        "model_root": model_root,
        "operators": {**known.get("operators", {}), **pairs(operators, "--operator")},
        "rate_cards": {**known.get("rate_cards", {}), **cards},
        "custodians": [*known.get("custodians", ()), *holders],
        "threshold": threshold,
        "log_keys": [*known.get("log_keys", ()), *log_keys],
        "witnesses": [*known.get("witnesses", ()), *witnesses],
        "quorum": quorum,
        "mirrors": [*known.get("mirrors", ()), *mirrors],
    }
    merged = {**known, **{name: value for name, value in given.items() if value is not None}}
    printed = write_client(folder, tenant, merged, key_store)
    emit(printed, as_json, lambda: f"tenant {tenant}: public key {printed['tenant_key']}")


@client.command("proofs")
@config_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for witnesses.",
)
@click.option(
    "--hand-in-after",
    "after_s",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Age in seconds at which the client itself submits a missing receipt; refusals at once.",
)
@json_option
def proofs(config: Path, timeout_s: float, after_s: float, as_json: bool) -> int:
    """Fetch and verify the log's proof of every receipt; submit those that the log still lacks."""
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415

    async def main() -> dict[str, int]:
        async with AsyncCounterfoilClient(ClientPolicy.load(config)) as opened:
            report = await opened.upgrade_proofs(timeout_s)
            handed_in = await opened.hand_in_missing(after_s) if report.missing else 0
            return {
                "proved": report.proved,
                "missing": report.missing,
                "handed_in": handed_in,
                **opened.archive.counts(),
            }

    facts = asyncio.run(main())
    emit(
        facts,
        as_json,
        lambda: f"{facts['proofs']} of {facts['receipts']} receipts are in the witnessed log",
    )
    return 5 if facts["missing"] else 0


@client.group("tokenizer")
def tokenizer() -> None:
    """The client's own tokenizer for prompts and answers."""


@tokenizer.command("fetch")
@config_option
@click.option("--model", help="Model root in hex [default: the policy's].")
@click.option("--node", help="Ask this node (NAME or OPERATOR/NAME).")
@json_option
def tokenizer_fetch(config: Path, model: str | None, node: str | None, as_json: bool) -> None:
    """Fetch a model's tokenizer from a node and check it against the model root; it is used from then on.
    The client then takes no node's word for a prompt's tokens or an answer's text. This needs the packages of the
    extra `text`.
    """
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415

    async def main() -> Path:
        async with AsyncCounterfoilClient(ClientPolicy.load(config)) as opened:
            return await opened.fetch_tokenizer(model, node)

    folder = asyncio.run(main())
    files = sorted(path.name for path in folder.iterdir())
    emit({"folder": folder, "files": files}, as_json, lambda: f"{', '.join(files)} in {folder}")
