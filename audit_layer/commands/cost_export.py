"""`counterfoil cost export`: the file comes from the server; tags are filled here, where the tag book is."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from audit_layer.commands.cost_client import Api, Streamed, with_api
from audit_layer.commands.cost_days import Which, which_charges
from audit_layer.commands.cost_tags import book_of, tag_options
from audit_layer.commands.options import FILE
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit

if TYPE_CHECKING:
    from audit_layer.costs.exports.formats import Format
    from audit_layer.costs.exports.manifest import Manifest
    from audit_layer.costs.exports.tagging import Tagging
    from audit_layer.costs.exports.totals import Totals

FORMATS = (
    *("focus-1.2-csv", "focus-1.2-parquet", "focus-1.4-csv", "focus-1.4-parquet"),
    *("focus-1.4-billing-period-csv", "focus-1.4-billing-period-parquet", "xlsx", "gl-csv"),
    *("focus-1.4-invoice-detail-csv", "focus-1.4-invoice-detail-parquet"),
)
WITH_TAGS: Final = (*FORMATS[:4], "xlsx")


@click.command("export")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write."
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default="focus-1.2-csv",
    show_default=True,
    help="What is written; never guessed from the file's name.",
)
@which_charges
@click.option(
    "--invoice",
    type=click.IntRange(1),
    help="A stored invoice, instead of days, for focus-1.4-invoice-detail.",
)
@click.option("--payment-terms", help="What that invoice says about payment, such as 'Net 30'.")
@tag_options
@click.option("--accounts", type=FILE, help="CSV from our accounts to yours, for gl-csv.")
@click.option("--sign-key", type=FILE, help="Ed25519 key (PEM) to sign a manifest beside the file.")
@click.option("--allow-empty", is_flag=True, help="Write a file also where nothing was charged.")
@with_api
def export(
    api: Api,
    *,
    out: Path,
    format_name: str,
    which: Which,
    invoice: int | None,
    payment_terms: str | None,
    tags: Path | None,
    tag_key: Path | None,
    candidates: tuple[str, ...],
    accounts: Path | None,
    sign_key: Path | None,
    allow_empty: bool,
    as_json: bool,
) -> None:
    """Write a billing period, or the charges of some days (default: this month), in a named format.

    An existing file is replaced as a whole, once the new one is complete. Where nothing was charged, nothing is written and
    the exit code is 4, unless --allow-empty is given. With --tags, or --tag-key and --tag, the file says whose each charge
    is; tags and key stay on this machine.
    """
    from audit_layer.costs.exports.formats import check_extension, format_named  # noqa: PLC0415  # --help stays light
    from audit_layer.costs.exports.tagging import Tagging  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415

    chosen = format_named(format_name)
    check_extension(out, chosen)
    if invoice is not None:
        one = {"tenant": None, "invoice": invoice, "payment_terms": payment_terms}
        which = Which(parameters=one, words=f"invoice {invoice}")
    book = book_of(tags, tag_key, candidates, which.parameters["tenant"])
    if book is not None and format_name not in WITH_TAGS:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{format_name} says nothing about tags",
            remedy=f"Name one of: {', '.join(WITH_TAGS)}.",
        )
    local = book is not None and format_name == "xlsx"  # its teams are tags: it is made here
    given = None if accounts is None else read_bounded(accounts, 16_384).decode()
    asked = {"format": "focus-1.4-parquet" if local else format_name, "accounts": given}
    with api.stream("/export", {**asked, **which.parameters}) as answer:
        told = _told(answer)
        if not told.rows and not allow_empty:
            raise CounterfoilError(
                Code.NOT_FOUND,
                f"nothing was charged in {which.words}; no file was written",
                remedy="`counterfoil cost rate` books what is in the log; `counterfoil cost report` shows what is booked.",
            )
        zone = which.parameters.get("time_zone", "UTC")
        tagging = None if book is None else Tagging(book)
        manifest = _written(out, chosen, answer, told, tagging, zone)
    if sign_key is not None:
        _sign(out, manifest, sign_key)
    data = {
        "file": str(out),
        "rows": manifest.rows,
        "format": format_name,
        "sha256": manifest.sha256,
        "totals": manifest.totals,
    }
    emit(data, as_json, lambda: f"{manifest.rows} rows of {which.words} written to {out}")


def _told(answer: Streamed) -> "Manifest":
    """Return what the server says about its file."""
    from dataclasses import fields  # noqa: PLC0415  # --help stays light

    from audit_layer.costs.exports.manifest import Manifest  # noqa: PLC0415

    told = json.loads(base64.b64decode(answer.headers["counterfoil-manifest"]))
    return Manifest(**{field.name: told[field.name] for field in fields(Manifest)})


class _Received:
    """Hashes what comes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        from hashlib import sha256  # noqa: PLC0415  # next to its only use

        self._chunks, self._hash = chunks, sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            yield chunk

    def check(self, told: "Manifest") -> None:
        """Refuse a file that is not the one that was described."""
        if self._hash.hexdigest() != told.sha256:
            raise CounterfoilError(
                Code.CONFLICT, "the file is not what the server says that it wrote"
            )


def _written(
    out: Path,
    chosen: "Format",
    answer: Streamed,
    told: "Manifest",
    tagging: "Tagging | None",
    zone: str,
) -> "Manifest":
    """Write the file, complete and checked before it replaces another; return what is to be signed about it."""
    from dataclasses import replace  # noqa: PLC0415  # --help stays light

    from audit_layer.costs.exports.from_charges import DATASETS  # noqa: PLC0415
    from audit_layer.costs.exports.tagging import fill_csv, fill_parquet  # noqa: PLC0415
    from audit_layer.costs.exports.totals import Totals  # noqa: PLC0415
    from shared.runtime.replacing import replacing  # noqa: PLC0415

    received, totals = _Received(answer.chunks), Totals()
    if tagging is not None and chosen.container == "xlsx":
        return _workbook(out, received, told, tagging, zone)
    with replacing(out) as file:
        if tagging is None:
            for chunk in received:
                file.write(chunk)
            received.check(told)
        elif chosen.container == "parquet":
            with _spooled(received, told) as source:
                fill_parquet(DATASETS[chosen], source, tagging, file, totals)
            _same_totals(totals, told)
        else:
            fill_csv(DATASETS[chosen], received, tagging, file, totals)
            received.check(told)
            _same_totals(totals, told)
        digest = file.digest().hex()
        return replace(told, file=out.name, sha256=digest, size=file.size)


@contextmanager
def _spooled(received: _Received, told: "Manifest") -> Iterator[BinaryIO]:
    """Yield the whole file, which Parquet is read from at any place; it has no name and goes away."""
    from tempfile import TemporaryFile  # noqa: PLC0415  # next to its only use

    with TemporaryFile(prefix="counterfoil-") as file:
        for chunk in received:
            file.write(chunk)
        received.check(told)
        file.seek(0)
        yield file


def _workbook(
    out: Path, received: _Received, told: "Manifest", tagging: "Tagging", zone: str
) -> "Manifest":
    from audit_layer.costs.exports.focus_columns import FOCUS_1_4  # noqa: PLC0415  # --help stays light
    from audit_layer.costs.exports.from_focus import charge_of  # noqa: PLC0415
    from audit_layer.costs.exports.manifest import About  # noqa: PLC0415
    from audit_layer.costs.exports.tagging import tagged_rows  # noqa: PLC0415
    from audit_layer.costs.exports.workbook import write_workbook  # noqa: PLC0415
    from shared.codec.moment import Period, parse_rfc3339  # noqa: PLC0415

    bounds = map(parse_rfc3339, (told.period_start, told.period_end))
    about = About(Period(*bounds), parse_rfc3339(told.created))
    with _spooled(received, told) as source:
        charges = map(charge_of, tagged_rows(FOCUS_1_4, source, tagging))
        return write_workbook(out, charges, about, zone=zone, check=lambda t: _same_totals(t, told))


def _same_totals(totals: "Totals", told: "Manifest") -> None:
    """Filling tags changes no amount and loses no row."""
    if (totals.rows, totals.as_text()) != (told.rows, told.totals):
        raise CounterfoilError(
            Code.CONFLICT, "the file's rows do not come to what the server says that they do"
        )


def _sign(out: Path, manifest: "Manifest", sign_key: Path) -> None:
    from audit_layer.costs.exports.manifest import beside, signed  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import load_ed25519, write_result  # noqa: PLC0415

    write_result(beside(out), signed(manifest, load_ed25519(sign_key)))
