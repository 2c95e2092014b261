"""`counterfoil log monitor`: follow a log from anywhere, with nothing but its address and keys."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import asyncio

    from audit_layer.monitor.monitor import Rules
    from audit_layer.monitor.statements import Watch
    from shared.translog.policy import LogPolicy
    from shared.verification.trust import Trust

FOUND: Final = 3
"""Exit code when something is wrong: verification failed."""
TROUBLE: Final = 5
"""Exit code when the log could not be reached: unavailable, try again."""
_READ = click.Path(exists=True, dir_okay=False, path_type=Path)


def _policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say whom to believe."""
    for option in reversed(
        (
            click.option(
                "--policy", "policy_file", type=_READ,
                help="C2SP tlog-policy: the log's keys, the witnesses, and what makes a quorum.",
            ),
            click.option(
                "--log", "log_keys", multiple=True, metavar="VKEY",
                help="Without --policy: a key of the log, as `name+id+key`; all that are given must sign.",
            ),
            click.option(
                "--witness", "witness_keys", multiple=True, metavar="VKEY",
                help="Without --policy: a key of a witness; all keys under one name must sign.",
            ),
            click.option(
                "--threshold", type=click.IntRange(1),
                help="Without --policy: how many witnesses make a quorum.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("monitor")
@click.argument("url")
@_policy_options
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="File for what was verified and found; evidence goes into a folder next to it.",
)  # fmt: skip
@click.option(
    "--ca", type=_READ, envvar="COUNTERFOIL_CA", show_envvar=True,
    help="Certificate authority of the server (PEM), instead of the system's.",
)  # fmt: skip
@click.option("--api-url", help="Address of the query API, if it is not the log's.")
@click.option(
    "--token-file", type=_READ, help="A tenant's token: also follow its receipts and disclosures."
)
@click.option(
    "--webhook", "webhook_file", type=_READ,
    help="TOML file (url, secret_file, ca_file): whom to tell of the tenant's disclosures; needs --token-file.",
)  # fmt: skip
@click.option(
    "--watch-operator", "operators", multiple=True, metavar="NAME",
    help="Report this operator's key bundles, revocations, rate cards, and epoch seals over its receipts.",
)  # fmt: skip
@click.option(
    "--watch-model", "models", multiple=True, metavar="HEX",
    help="Report the same for this model root.",
)  # fmt: skip
@click.option(
    "--operator-key", "operator_keys", multiple=True, metavar="NAME=HEX",
    help="Pin an operator's identity key: what another key signs in its name is a finding.",
)  # fmt: skip
@click.option(
    "--authority-key", metavar="HEX",
    help="Key of the audit authority: draws that another key signed are a finding.",
)  # fmt: skip
@click.option(
    "--party-key", "party_keys", multiple=True, metavar="NAME=HEX",
    help="Key of a beacon party (its signing key): what another key signs in its name is a finding.",
)  # fmt: skip
@click.option(
    "--from-now",
    is_flag=True,
    help="Begin at the current size; what came before is not recomputed.",
)
@click.option(
    "--stale-after", "stale_after_s", type=click.IntRange(0), default=86_400, show_default=True,
    help="Seconds without a newer witnessed checkpoint after which the log is stale; 0: never.",
)  # fmt: skip
@click.option(
    "--grace", "grace_s", type=click.IntRange(0), default=3_600, show_default=True,
    help="Seconds that an order number may be missing, or a statement lack a checkpoint.",
)  # fmt: skip
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.05), default=10.0, show_default=True,
    help="Seconds between looks.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Look once and exit, for cron.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def monitor(url: str, **options: Any) -> int:
    """Follow the log at URL: recompute every new entry, and keep proof of what is wrong.

    Findings are kept and reported once: a fork, a rollback, staleness, missing or damaged files, missing
    signatures, statements that the log does not hold, draws that are not the outcome of the rule. With
    --once the exit code is 3 when something is wrong (new, or still so; a fork forever), 5 when the log
    could not be reached, else 0.
    """
    from shared.runtime.readiness import run_service  # noqa: PLC0415  # --help stays light

    return run_service(lambda stop: _run(url, stop, **options))


async def _run(
    url: str,
    stop: "asyncio.Event",
    *,
    policy_file: Path | None,
    log_keys: tuple[str, ...],
    witness_keys: tuple[str, ...],
    threshold: int | None,
    state: Path,
    ca: Path | None,
    api_url: str | None,
    token_file: Path | None,
    webhook_file: Path | None,
    once: bool,
    as_json: bool,
    **options: Any,
) -> int:
    import asyncio  # noqa: PLC0415  # --help stays light
    from contextlib import AsyncExitStack  # noqa: PLC0415

    from audit_layer.monitor.client import ApiClient, Https  # noqa: PLC0415
    from audit_layer.monitor.monitor import Monitor  # noqa: PLC0415
    from audit_layer.monitor.report import JsonLines, Reporter, TextLines  # noqa: PLC0415
    from audit_layer.monitor.store import MonitorStore  # noqa: PLC0415
    from shared.parties.webhook import Webhook, WebhookSettings  # noqa: PLC0415
    from shared.runtime.config import load, read_secret  # noqa: PLC0415
    from shared.translog.published import PublishedLog  # noqa: PLC0415

    policy = _policy(policy_file, log_keys, witness_keys, threshold)
    rules = _rules(**options)
    if webhook_file is not None and token_file is None:
        raise click.UsageError("--webhook tells of a tenant's disclosures: give its --token-file.")
    webhook = None if webhook_file is None else Webhook.of(load(WebhookSettings, webhook_file))
    async with AsyncExitStack() as stack:

        def reach(address: str, headers: dict[str, str] | None = None) -> Https:
            https = Https(address, ca, headers=headers)
            stack.push_async_callback(https.aclose)
            return https

        tenant_api = None
        if token_file is not None:
            token = {"authorization": f"Bearer {read_secret(token_file).strip()}"}
            tenant_api = ApiClient(reach(api_url or url, token))
        log, api = PublishedLog(reach(url)), ApiClient(reach(api_url or url))
        store = MonitorStore(state, policy.logs[0].name)
        stack.callback(store.close)
        reporter = Reporter(JsonLines() if as_json else TextLines())
        watching = Monitor(store, policy, log, api, tenant_api, rules, reporter, webhook=webhook)

        async def work() -> int:
            if not once:
                await watching.follow()
            met = await watching.once()
            if met.findings or store.forked():
                return FOUND
            return TROUBLE if met.troubles else 0

        task, stopped = asyncio.create_task(work()), asyncio.create_task(stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
    return 0


@click.command("mirror")
@click.argument("url")
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="Folder of the copy; any web server can serve it over HTTPS.",
)  # fmt: skip
@_policy_options
@click.option(
    "--ca", type=_READ, envvar="COUNTERFOIL_CA", show_envvar=True,
    help="Certificate authority of the server (PEM), instead of the system's.",
)  # fmt: skip
@click.option("--api-url", help="Address of the query API, if it is not the log's.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.05), default=60.0, show_default=True,
    help="Seconds between looks: clients refuse a copy whose checkpoint is older than their policy accepts.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Copy once and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def mirror(url: str, **options: Any) -> int:
    """Copy the log at URL into a folder, checked entry by entry, with a directory of key bundles and revocations.

    Clients that name the copy under `mirrors` in client.toml use it while the audit server does not answer; they check it
    themselves and believe it in nothing. With --once the exit code is 3 when what is served is wrong, 5 when the log could
    not be reached, else 0.
    """
    from shared.runtime.readiness import run_service  # noqa: PLC0415  # --help stays light

    return run_service(lambda stop: _mirror(url, stop, **options))


async def _mirror(
    url: str,
    stop: "asyncio.Event",
    *,
    folder: Path,
    policy_file: Path | None,
    log_keys: tuple[str, ...],
    witness_keys: tuple[str, ...],
    threshold: int | None,
    ca: Path | None,
    api_url: str | None,
    interval_s: float,
    once: bool,
    as_json: bool,
) -> int:
    import asyncio  # noqa: PLC0415  # --help stays light
    from contextlib import AsyncExitStack, suppress  # noqa: PLC0415

    from audit_layer.monitor.client import ApiClient, Https  # noqa: PLC0415
    from audit_layer.monitor.findings import FoundError  # noqa: PLC0415
    from audit_layer.monitor.mirror import LogMirror  # noqa: PLC0415
    from shared.runtime.errors import CounterfoilError  # noqa: PLC0415
    from shared.runtime.output import emit_line  # noqa: PLC0415
    from shared.translog.published import PublishedLog  # noqa: PLC0415

    def tell(facts: dict[str, Any], text: str) -> None:
        if as_json:
            emit_line(facts)
        else:
            click.echo(text)

    policy = _policy(policy_file, log_keys, witness_keys, threshold)
    async with AsyncExitStack() as stack:
        log, api = Https(url, ca), Https(api_url or url, ca)
        stack.push_async_callback(log.aclose)
        stack.push_async_callback(api.aclose)
        copying = LogMirror(folder, policy, PublishedLog(log), ApiClient(api))
        while True:
            code = 0
            try:
                shown = (await copying.step()).checkpoint
            except CounterfoilError as error:
                code = TROUBLE if error.code.value.retryable else FOUND
                tell({"error": error.code.name, "detail": error.detail}, str(error))
            except FoundError as error:
                code = FOUND
                tell({"error": "MALFORMED", "detail": error.finding.detail}, error.finding.detail)
            else:
                facts = {"origin": shown.origin, "size": shown.size, "root": shown.root}
                tell(facts, f"{folder} shows {shown.origin} at size {shown.size}")
            if once or stop.is_set():
                return code
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval_s)
                return 0


def _policy(
    file: Path | None,
    log_keys: tuple[str, ...],
    witness_keys: tuple[str, ...],
    threshold: int | None,
) -> "LogPolicy":
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.translog.policy import LogPolicy  # noqa: PLC0415
    from shared.translog.policy_file import read_policy_file  # noqa: PLC0415

    keys = bool(log_keys and witness_keys and threshold)
    if (log_keys or witness_keys or threshold) if file is not None else not keys:
        raise click.UsageError(
            "Say whom to believe: either --policy, or --log, --witness and --threshold."
        )
    policy = (
        read_policy_file(file).policy()
        if file is not None
        else LogPolicy.from_vkeys(logs=log_keys, witnesses=witness_keys, threshold=threshold or 0)
    )
    if len({key.name for key in policy.logs}) > 1:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the log keys belong to several logs",
            remedy="Run one monitor per log, each with the keys of one.",
        )
    return policy


def _rules(
    *,
    operators: tuple[str, ...],
    models: tuple[str, ...],
    operator_keys: tuple[str, ...],
    authority_key: str | None,
    party_keys: tuple[str, ...],
    **options: Any,
) -> "Rules":
    from audit_layer.monitor.monitor import Rules  # noqa: PLC0415
    from shared.codec.ids import parse_hex32  # noqa: PLC0415
    from shared.verification.trust import Trust  # noqa: PLC0415

    authority = parse_hex32(authority_key.lower(), "the authority's key") if authority_key else None
    named = (text.partition("=") for text in party_keys)
    parties = {name: parse_hex32(key.lower(), f"the key of {name[:63]}") for name, _, key in named}
    watch = _watch(operators, models, operator_keys, Trust.of(authority=authority, parties=parties))
    return Rules(watch=watch, **options)


def _watch(
    operators: tuple[str, ...],
    models: tuple[str, ...],
    operator_keys: tuple[str, ...],
    trust: "Trust",
) -> "Watch":
    from audit_layer.monitor.statements import Watch  # noqa: PLC0415
    from shared.codec.ids import check_name, parse_hex32  # noqa: PLC0415
    from shared.statements.cose import check_signing_key  # noqa: PLC0415
    from shared.verification.trust import Role, Trust  # noqa: PLC0415

    keys: dict[str, tuple[bytes, ...]] = {}
    for text in operator_keys:
        name, _, key = text.partition("=")
        public = parse_hex32(key.lower(), f"the key of operator {name[:63]!r}")
        check_signing_key(public)
        keys[check_name(name, "an operator")] = (*keys.get(name, ()), public)
    return Watch(
        frozenset(check_name(name, "an operator") for name in operators),
        frozenset(parse_hex32(model.lower(), "a model root") for model in models),
        Trust(pins={**trust.pins, **({Role.OPERATOR: keys} if keys else {})}),
    )
