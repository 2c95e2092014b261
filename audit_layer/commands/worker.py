"""`counterfoil audit worker` and `counterfoil audit beat`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.runtime.key_options import key_store_options
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from shared.runtime.key_store import KeyStoreSettings


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_out = click.Path(dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)


@click.group("worker")
def worker() -> None:
    """Replay drawn receipts and log verdicts; one worker is also the selection authority."""


@worker.command("keys")
@click.option("--folder", type=_folder, required=True, help="Keys, state and configuration.")
@click.option("--name", required=True)
@click.option("--authority", is_flag=True, help="Create the selection authority's key too.")
@key_store_options
def keys(folder: Path, name: str, authority: bool, key_store: "KeyStoreSettings | None") -> None:
    """Create a worker's keys and print what others must know about it as JSON."""
    from audit_layer.wiring.worker import worker_identity  # noqa: PLC0415  # --help stays light
    from shared.runtime.key_store import store_of  # noqa: PLC0415

    store = store_of(key_store)
    emit(worker_identity(folder / "keys", name, store, authority=authority), True, str)


@worker.command("init")
@click.option("--folder", type=_folder, required=True)
@click.option("--name", required=True)
@click.option("--origin", required=True, help="Origin line of the log.")
@click.option("--dsn-file", type=_file, required=True, help="DSN of role `worker`.")
@click.option(
    "--broker-url-file", type=_file, required=True, help="Redis, RabbitMQ or Postgres URL."
)
@click.option(
    "--audit-server", required=True, help="host:port where the audit server takes calls of parties."
)
@click.option("--ca", type=_file, required=True, help="Authority of others' certificates (PEM).")
@click.option(
    "--cert",
    type=_file,
    required=True,
    help="Certificate that names this worker to others (`audit party certificate`).",
)
@click.option("--key", type=_file, required=True, help="Its private key (PEM).")
@click.option(
    "--model", "models", type=_folder, multiple=True, required=True, help="A checkpoint folder."
)
@click.option(
    "--trust", type=_file, required=True, help="JSON: custodians, witnesses, peers, authority."
)
@key_store_options
def init(**options: Any) -> None:
    """Write worker.toml. `--trust` is a file because it names keys of a kilobyte each."""
    from audit_layer.wiring.worker_settings import WorkerSettings  # noqa: PLC0415
    from shared.runtime.config import checked, read_json, to_toml  # noqa: PLC0415
    from shared.runtime.keys import write_atomic  # noqa: PLC0415

    folder: Path = options["folder"].absolute()
    settings = checked(
        WorkerSettings,
        {
            "name": options["name"],
            "origin": options["origin"],
            "database_dsn_file": options["dsn_file"].absolute(),
            "broker_url_file": options["broker_url_file"].absolute(),
            "audit_server": options["audit_server"],
            "ca_file": options["ca"].absolute(),
            "party": {name: options[name].absolute() for name in ("cert", "key", "ca")},
            "keys_folder": folder / "keys",
            **({} if options["key_store"] is None else {"key_store": options["key_store"]}),
            "models": [path.absolute() for path in options["models"]],
            **read_json(options["trust"]),
        },
        str(options["trust"]),
    )
    path = folder / "worker.toml"
    write_atomic(path, to_toml(settings).encode())
    emit({"config": str(path)}, True, str)


@worker.command("serve")
@click.option("--config", type=_file, required=True)
@click.option("--ready-file", type=_out)
@click.option("--log-level", default="info", show_default=True)
def serve(config: Path, ready_file: Path | None, log_level: str) -> None:
    """Work until told to stop."""
    from audit_layer.wiring.worker import build_worker  # noqa: PLC0415
    from audit_layer.wiring.worker_settings import WorkerSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    settings = load(WorkerSettings, config)
    build_worker(settings).run(settings.name, ready_file, log_level)


@worker.command("judge-shown")
@click.argument("file", type=_file)
@click.option("--config", type=_file, required=True, help="The worker's worker.toml.")
@click.option(
    "--recipient-key",
    type=_file,
    help="Your key, if the file is sealed to you (`client recipient-key`).",
)
@json_option
def judge_shown(file: Path, config: Path, recipient_key: Path | None, as_json: bool) -> int:
    """Replay what a tenant's client shows by itself (FILE of `counterfoil client share`), and log the verdict.

    No custodian and no draw has a part in it: so a canary is judged. The receipt must be in the log, and only bytes count
    that it commits to. What blames the node convicts it once a second worker has judged the same file. Exit code 3 for a
    verdict that is not PASS.
    """
    from audit_layer.wiring.worker import shown_judge  # noqa: PLC0415  # --help stays light
    from audit_layer.wiring.worker_settings import WorkerSettings  # noqa: PLC0415
    from shared.envelope.hpke import load_hpke_key  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415
    from shared.runtime.errors import Code  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415
    from shared.verification.share import MAX_SHARE, parse_share  # noqa: PLC0415

    key = None if recipient_key is None else load_hpke_key(recipient_key)
    share = parse_share(read_bounded(file, MAX_SHARE, code=Code.NOT_FOUND), key)
    with shown_judge(load(WorkerSettings, config)) as judge:
        heard = judge.judge(share)
    verdict, judgement = heard.verdict, heard.judgement
    facts = {
        "receipt": verdict.receipt,
        "verdict": heard.entry,
        "worker": verdict.worker,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason.value,
        "confirms": verdict.confirms,
        "before": judgement is None,
        "facts": {} if judgement is None else dict(judgement.facts),
    }
    logged = "not logged" if heard.entry is None else f"verdict {heard.entry.hex()}"
    again = ", judged before" if judgement is None else ""
    emit(
        facts,
        as_json,
        lambda: f"{verdict.outcome.value} ({verdict.reason.value}){again}; {logged}",
    )
    return 0 if verdict.outcome.value == "PASS" else 3


@click.group("beat")
def beat() -> None:
    """Send the scheduled hints: the epoch clock, the sweep, rating."""


@beat.command("serve")
@click.option("--config", type=_file, required=True, help="The authority's worker.toml.")
@click.option("--ready-file", type=_out)
@click.option("--log-level", default="info", show_default=True)
def beat_serve(config: Path, ready_file: Path | None, log_level: str) -> None:
    """Run beat until told to stop."""
    from audit_layer.wiring.worker import run_beat  # noqa: PLC0415
    from audit_layer.wiring.worker_settings import WorkerSettings  # noqa: PLC0415
    from shared.runtime.config import load  # noqa: PLC0415

    schedule = config.absolute().with_name("beat-schedule")
    run_beat(load(WorkerSettings, config), schedule, ready_file, log_level)
