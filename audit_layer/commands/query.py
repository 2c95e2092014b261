"""Commands that ask the query API over HTTPS with a token, from anywhere."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from audit_layer.commands.https import answered
from audit_layer.commands.options import FILE, entry_argument, query_api_options, rendered, utc
from shared.runtime.output import emit, to_json
from shared.runtime.printable import for_terminal

if TYPE_CHECKING:
    from shared.verification.trust import Trust

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
TIMEOUT_S: Final = 30.0


def asking(command: F) -> F:
    """Give a command the options --url, --token-file, --ca and --json."""
    return query_api_options(
        command, variable="COUNTERFOIL_AUDIT_TOKEN_FILE", whose="File with the bearer token."
    )


def paged(command: F) -> F:
    """Give a command the options --after, --limit and --oldest-first."""
    after = click.option(
        "--after",
        type=click.IntRange(-1),
        default=-1,
        help="Log index after which the page begins, in its order.",
    )
    limit = click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
    order = click.option(
        "--oldest-first",
        "order",
        flag_value="asc",
        default="desc",
        help="Begin with the oldest instead of the newest.",
    )
    return after(limit(order(command)))


def ask(url: str, token_file: Path, ca: Path, path: str, **parameters: Any) -> Any:
    """Return the JSON answer to GET `path`; raise the server's error, or UNAVAILABLE."""
    with answered(url, token_file, ca, "GET", path, parameters, timeout_s=TIMEOUT_S) as answer:
        answer.read()
    return answer.json()


def _ms(_context: click.Context, _parameter: click.Parameter, value: datetime | None) -> int | None:
    from datetime import UTC  # noqa: PLC0415  # next to its only use

    return None if value is None else int(value.replace(tzinfo=UTC).timestamp() * 1000)


def moment_option(name: str, parameter: str, about: str) -> Callable[[F], F]:
    """Return the decorator of an option that takes a UTC time and gives Unix milliseconds."""
    kind = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"))
    return click.option(name, parameter, type=kind, callback=_ms, help=about)


@click.command("receipts")
@click.option("--tenant")
@click.option("--operator")
@click.option("--node", help="Its name, or operator/node as tables show it.")
@click.option("--model", "model_root", help="Model root, hexadecimal.")
@moment_option("--from", "started_from", "Started at or after this time (UTC).")
@moment_option("--to", "started_to", "Started before this time (UTC).")
@paged
@asking
def receipts(url: str, token_file: Path, ca: Path, as_json: bool, **query: Any) -> None:
    """Show receipts by tenant, operator, node, model and time."""
    page = ask(url, token_file, ca, "/v1/receipts", **query)
    columns = ("log_index", "tenant", "node", "tokens", "finish", "started", "entry")
    for row in [] if as_json else page["items"]:
        row["node"] = f"{row['operator']}/{row['node']}"
        row["tokens"] = f"{row['input_tokens']} + {row['output_tokens']}"
        row["started"] = utc(row["started"])
    show_page("Receipts", columns, page, as_json)


@click.command("refusals")
@click.option("--tenant")
@click.option("--operator")
@click.option("--node", help="Its name, or operator/node as tables show it.")
@paged
@asking
def refusals(url: str, token_file: Path, ca: Path, as_json: bool, **query: Any) -> None:
    """Show attempts that nodes refused with a signature, and for what; they close their order numbers."""
    columns = ("log_index", "tenant", "number", "attempt", "operator", "node", "reason", "at")
    show_page("Refusals", columns, ask(url, token_file, ca, "/v1/refusals", **query), as_json)


@click.command("verdicts")
@click.option("--tenant")
@click.option("--operator")
@click.option("--node", help="Its name, or operator/node as tables show it.")
@paged
@asking
def verdicts(url: str, token_file: Path, ca: Path, as_json: bool, **query: Any) -> None:
    """Show verdicts by the parties that they concern."""
    columns = ("log_index", "operator", "node", "outcome", "reason", "worker", "receipt")
    show_page("Verdicts", columns, ask(url, token_file, ca, "/v1/verdicts", **query), as_json)


@click.command("epochs")
@click.option(
    "--check", is_flag=True, help="Check every draw instead; exit code 1 if one is wrong."
)
@click.option("--origin", help="With --check: name of the log, if the server's word is not enough.")
@click.option(
    "--authority-key", metavar="HEX", help="With --check: key that must have signed the epochs."
)
@click.option(
    "--party-key", "party_keys", multiple=True, metavar="NAME=HEX",
    help="With --check: key that must have signed for a beacon party; repeatable.",
)  # fmt: skip
@paged
@asking
def epochs(
    url: str,
    token_file: Path,
    ca: Path,
    as_json: bool,
    check: bool,
    origin: str | None,
    authority_key: str | None,
    party_keys: tuple[str, ...],
    **query: Any,
) -> int:
    """Show how receipts were selected: epoch opens, epoch seals and draws.

    With --check every epoch after the log index --after is checked by the steps of docs/protocol.md, 6.1.1: that its draw
    lists everything that was due and nothing else, and that requests and verdicts followed. An auditor's token takes all
    steps, others only those over what they may see.
    """
    if check:
        keys = _trust(authority_key, party_keys)
        at = (url, token_file, ca)
        return _check(
            lambda path, **given: ask(*at, path, **given), query["after"], origin, keys, as_json
        )
    if origin or authority_key or party_keys:
        raise click.UsageError("--origin, --authority-key and --party-key need --check")
    page = ask(url, token_file, ca, "/v1/epochs", **query)
    columns = ("log_index", "type", "subject", "recorded_at", "entry")
    for row in [] if as_json else page["items"]:
        row["recorded_at"] = utc(row["recorded_at"])
    show_page("Epochs", columns, page, as_json)
    return 0


def _trust(authority: str | None, parties: tuple[str, ...]) -> "Trust":
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.verification.trust import Trust  # noqa: PLC0415

    named = (text.partition("=") for text in parties)
    return Trust.of(
        authority=parse_hex32(authority.lower(), "the authority's key") if authority else None,
        parties={
            name: parse_hex32(key.lower(), f"the key of {name[:63]}") for name, _, key in named
        },
    )


def _check(
    asking: Callable[..., Any], after: int, origin: str | None, trust: "Trust", as_json: bool
) -> int:
    """Check the draws, show what came of it, and return the exit code."""
    from audit_layer.commands.epochs import check_epochs  # noqa: PLC0415  # --help stays light
    from shared.codec.moment import now_ms  # noqa: PLC0415

    rows: list[dict[str, Any]] = []
    for found in check_epochs(asking, after=after, origin=origin, trust=trust, now=now_ms()):
        seal, draw = found.record.seal.value, found.record.draw
        rows.append(
            {
                "epoch": seal.epoch,
                "first": seal.first,
                "size": seal.size,
                "receipts": found.receipts,
                "drawn": None if draw is None else len(draw.value.drawn),
                "whole": None if draw is None else draw.value.whole,
                "steps": list(found.checked.steps),
                "faults": found.checked.faults,
            }
        )
    wrong = sum(bool(row["faults"]) for row in rows)

    def shown() -> Any:
        columns = ("epoch", "first", "size", "receipts", "drawn", "whole", "steps", "result")
        for row in rows:
            row["steps"] = " ".join(map(str, row["steps"]))
            found = [f"({fault.step}) {fault.wrong}: {fault.detail}" for fault in row["faults"]]
            row["result"] = "\n".join(found) or "as the rule requires"
        return rendered(f"Draws: {wrong} of {len(rows)} epochs wrong", columns, rows)()

    emit({"epochs": rows, "wrong": wrong}, as_json, shown)
    return 1 if wrong else 0


@click.command("statement")
@entry_argument
@click.option("--proof", type=FILE, help="Write the tlog-proof to this file.")
@click.option("--raw", type=FILE, help="Write the signed bytes to this file.")
@asking
def statement(
    entry: str,
    url: str,
    token_file: Path,
    ca: Path,
    as_json: bool,
    proof: Path | None,
    raw: Path | None,
) -> None:
    """Show one signed statement by its log ENTRY (its first 12 digits are enough), with its proof of inclusion."""
    found = ask(url, token_file, ca, f"/v1/statements/{entry}")
    _write_parts(found, proof, raw)
    emit(
        found,
        as_json,
        lambda: "\n".join(
            (
                f"{found['type']} at log index {found['log_index']}, signed by {found['issuer']}",
                "witnessed" if found["tlog_proof"] else "not witnessed yet",
                to_json(found["payload"]),
            )
        ),
    )


@click.command("explain")
@entry_argument
@click.option("--html", type=FILE, help="Write a page to this file instead.")
@asking
def explain(
    entry: str, url: str, token_file: Path, ca: Path, as_json: bool, html: Path | None
) -> None:
    """Explain in plain words what the audit did about the receipt ENTRY (its first 12 digits are enough).

    It shows what was checked, what was found and how sure that is, who else looked, and what follows.
    """
    from audit_layer.api.account_schemas import AccountView  # noqa: PLC0415  # --help stays light
    from audit_layer.commands.explanation import explain  # noqa: PLC0415  # likewise
    from audit_layer.commands.explanation_page import for_people, page  # noqa: PLC0415  # likewise
    from shared.runtime.keys import write_result  # noqa: PLC0415  # likewise

    answer = ask(url, token_file, ca, f"/v1/receipts/{entry}/account")
    found = explain(_read(AccountView, answer))
    if html is not None:
        write_result(html, page(found, f"Audit of receipt {entry}").encode())
        click.echo(for_terminal(f"{found.headline}\nWritten to {html}."))
        return
    emit(answer, as_json, lambda: for_people(found))


@click.command("standing")
@click.option("--operator")
@click.option("--node", help="Its name, or operator/node as tables show it.")
@click.option(
    "--check",
    is_flag=True,
    help="Compute it again from the verdicts, with an auditor's token; exit code 1 if the server's answer differs.",
)
@asking
def standing(url: str, token_file: Path, ca: Path, as_json: bool, check: bool, **query: Any) -> int:
    """Show how nodes stand by the verdicts in the log (docs/protocol.md, 6.4).

    `suspended` nodes were convicted, or withhold evidence again and again; `watched` ones have something open. Both words
    go away with passes: 298 since a conviction, 69 since something was withheld. `new` nodes have fewer than 69.
    """
    rows = ask(url, token_file, ca, "/v1/standings", **query)
    columns = ("operator", "node", "standing", "passed", "convicted", "withheld", "open", "because")
    wrong: list[str] = []
    if check:
        from audit_layer.commands.standings import differences  # noqa: PLC0415  # --help stays light

        wrong = differences(lambda path, **given: ask(url, token_file, ca, path, **given), rows)
    title = "Standing of nodes" + (f": {len(wrong)} differ from the verdicts" if wrong else "")
    told = {"nodes": rows, **({"differs": wrong} if check else {})}
    emit(told, as_json, rendered(title, columns, rows))
    if check and not as_json:
        click.echo(for_terminal("\n".join(wrong) or "It is what the verdicts give."))
    return 1 if wrong else 0


def _read(kind: type[T], answer: Any) -> T:
    """Read an answer of the server; MALFORMED if it is of another form."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  # --help stays light

    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415  # likewise

    try:
        return TypeAdapter(kind).validate_python(answer)
    except ValidationError as error:
        raise CounterfoilError(
            Code.MALFORMED,
            f"the server's answer is not of this version ({error.error_count()} errors)",
        ) from error


def _write_parts(found: dict[str, Any], proof: Path | None, raw: Path | None) -> None:
    from base64 import b64decode  # noqa: PLC0415  # next to its only use

    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import write_result  # noqa: PLC0415

    if raw is not None:
        write_result(raw, b64decode(found["raw"]))
    if proof is not None:
        if found["tlog_proof"] is None:
            raise CounterfoilError(
                Code.NOT_WITNESSED, "no witnessed checkpoint covers the statement yet"
            )
        write_result(proof, found["tlog_proof"].encode())


def show_page(title: str, columns: tuple[str, ...], page: dict[str, Any], as_json: bool) -> None:
    """Print a page of a list, and where the next begins."""
    emit(page, as_json, rendered(title, columns, page["items"]))
    if page["next"] is not None and not as_json:
        click.echo(for_terminal(f"More: --after {page['next']}"), err=True)


QUERIES: Final = (receipts, refusals, verdicts, statement, epochs, explain, standing)
