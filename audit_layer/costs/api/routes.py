"""The cost routes: everything that `counterfoil cost` does, for tokens of finance and auditors; tenants read their own."""

import base64
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field
from sqlalchemy import Engine
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from audit_layer.costs.api.asking import (
    NAME_PATTERN,
    Body,
    Caller,
    Day,
    NameQuery,
    days_or_period,
    own,
)
from audit_layer.costs.api.budgets import add_budgets
from audit_layer.costs.api.proofs import proof_router
from audit_layer.costs.api.reports import add_reports
from audit_layer.costs.api.views import (
    BalanceView,
    BillView,
    ContractView,
    EntryView,
    InvoiceView,
    PeriodView,
    ReconciliationView,
)
from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.budgets.use import Budgets
from audit_layer.costs.exporting import Wanted, export
from audit_layer.costs.exports.formats import Format as ExportFormat
from audit_layer.costs.exports.formats import format_named
from audit_layer.costs.intake.read import Format
from audit_layer.costs.intake.shown import lines_of
from audit_layer.costs.invoicing import Invoicing
from audit_layer.costs.ledger.operations import Operation
from audit_layer.costs.proving.service import LineProofs, Proofs
from audit_layer.costs.reconciling.cases import State
from audit_layer.costs.reconciling.letter import letter_html, letter_text
from audit_layer.costs.service import Costs
from audit_layer.costs.stored_invoices import Submitted
from shared.codec.ids import parse_hex32
from shared.codec.moment import parse_day
from shared.codec.money import parse_decimal
from shared.runtime.errors import Code, CounterfoilError

MANIFEST_HEADER = "counterfoil-manifest"
"""What is to be signed about an exported file: canonical JSON, base64."""


class InvoiceBody(Body):
    """An invoice file."""

    content: Annotated[str, Field(max_length=8 * 2**20)]
    """The file, base64; it may be gzipped before."""
    format: Format | None = None
    mapping: Annotated[str | None, Field(max_length=2**20)] = None
    """The mapping file's text."""
    stated: dict[str, str] | None = None
    """What the file does not say."""

    def submitted(self) -> Submitted:
        """Return what the use case takes; MALFORMED for what is no base64."""
        try:
            content = base64.b64decode(self.content, validate=True)
        except ValueError as error:
            raise CounterfoilError(Code.MALFORMED, "content is not base64") from error
        mapping = None if self.mapping is None else self.mapping.encode()
        return Submitted(content, self.format, mapping, self.stated)


class ContractBody(Body):
    """Terms to be recorded."""

    terms: dict[str, Any]
    supersedes: int | None = None
    """The contract that they replace."""


class StateBody(Body):
    """A state to be put into."""

    state: Annotated[str, Field(max_length=32)]
    note: Annotated[str, Field(max_length=2000)] = ""


class ModelBody(Body):
    """The model that gets a name."""

    model_root: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class OperationBody(Body):
    """An operation of the ledger."""

    operation: Operation
    key: Annotated[str, Field(min_length=1, max_length=128)]
    """Idempotency key."""
    amount: Annotated[str, Field(max_length=64)]
    currency: Annotated[str, Field(max_length=12)]
    day: Annotated[str | None, Field(max_length=10)] = None
    tenant: Annotated[str | None, Field(pattern=NAME_PATTERN)] = None
    operator: Annotated[str | None, Field(pattern=NAME_PATTERN)] = None
    memo: Annotated[str | None, Field(max_length=500)] = None


def cost_router(
    engine: Engine,
    proofs: Proofs,
    asking: Callable[..., Caller],
) -> APIRouter:
    """Return the routes. `asking` returns who calls; the table of permissions has let it pass."""
    router = APIRouter(prefix="/v1/costs", tags=["costs"])
    _add_books(router, Costs(engine), asking)
    _add_keeping(router, Bookkeeping(engine), asking)
    _add_ledger(router, Bookkeeping(engine), asking)
    _add_invoices(router, Invoicing(engine), asking)
    router.include_router(proof_router(LineProofs(engine, proofs), asking))
    _add_export(router, engine, asking)
    add_reports(router, engine, asking)
    add_budgets(router, Budgets(engine), asking)
    return router


def _add_books(router: APIRouter, costs: Costs, asking: Callable[..., Caller]) -> None:
    @router.get("/totals")
    def totals(
        caller: Annotated[Caller, Depends(asking)], tenant: NameQuery = None
    ) -> list[dict[str, str | int]]:
        """What is booked, by operator and node; amounts are exact decimals as text."""
        return costs.totals(tenant=own(caller, tenant))

    @router.get("/unpaid")
    def unpaid(
        caller: Annotated[Caller, Depends(asking)],
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        tenant: NameQuery = None,
    ) -> list[dict[str, Any]]:
        """The latest receipts that are not payable, or not yet, each with the statement that says so."""
        rows = costs.unpaid(tenant=own(caller, tenant), limit=limit)
        hexed = ("receipt", "because")
        return [
            {k: v.hex() if k in hexed and v is not None else v for k, v in asdict(row).items()}
            for row in rows
        ]

    @router.post("/rate")
    def rate(_: Annotated[Caller, Depends(asking)]) -> dict[str, int]:
        """Rate and post every receipt that the books have not processed, and take every verdict into account."""
        done = 0
        while count := costs.rate_new():
            done += count
        while costs.heed_new():
            continue
        costs.settle_all()
        return {"rated_receipts": done}

    @router.get("/fsck")
    def fsck(_: Annotated[Caller, Depends(asking)]) -> dict[str, list[str]]:
        """Recompute the books from receipts, rate cards and verdicts; what differs."""
        return {"findings": costs.check()}


def _add_keeping(
    router: APIRouter,
    books: Bookkeeping,
    asking: Callable[..., Caller],
) -> None:
    @router.get("/periods")
    def periods(
        caller: Annotated[Caller, Depends(asking)],
        tenant: NameQuery = None,
        operator: NameQuery = None,
    ) -> list[PeriodView]:
        """Billing periods, the latest first."""
        return [
            PeriodView.of(item)
            for item in books.periods(tenant=own(caller, tenant), operator=operator)
        ]

    @router.get("/periods/{number}/bill")
    def bill(caller: Annotated[Caller, Depends(asking)], number: int) -> BillView:
        """A period's bill as it stands, or as it was closed."""
        books.period(number, tenant=caller.tenant)
        return BillView.of(books.bill(number))

    @router.post("/periods/{number}/state")
    def put_period(
        caller: Annotated[Caller, Depends(asking)], number: int, body: StateBody
    ) -> PeriodView:
        """Soft-close a period, reopen a soft-closed one, or ask for its close."""
        books.put_period(number, body.state, by=caller.name)
        return PeriodView.of(books.period(number))

    @router.get("/contracts")
    def contracts(caller: Annotated[Caller, Depends(asking)]) -> list[ContractView]:
        """Every contract ever recorded, those that were superseded too."""
        return [ContractView.of(item) for item in books.contracts(tenant=caller.tenant)]

    @router.post("/contracts")
    def record_contract(
        caller: Annotated[Caller, Depends(asking)], body: ContractBody
    ) -> ContractView:
        """Record terms between a tenant and an operator."""
        document = json.dumps(body.terms).encode()
        return ContractView.of(
            books.record_contract(document, by=caller.name, supersedes=body.supersedes)
        )

    @router.get("/models")
    def models(_: Annotated[Caller, Depends(asking)]) -> dict[str, str]:
        """The root of every model that has a name."""
        return {name: root.hex() for name, root in books.model_names().items()}

    @router.put("/models/{name}")
    def name_model(
        caller: Annotated[Caller, Depends(asking)], name: str, body: ModelBody
    ) -> dict[str, str]:
        """Give a model a name."""
        root = parse_hex32(body.model_root, "a model root")
        books.name_model(name, root, by=caller.name)
        return {name: body.model_root}


def _add_ledger(router: APIRouter, books: Bookkeeping, asking: Callable[..., Caller]) -> None:
    @router.get("/ledger/balances")
    def balances(_: Annotated[Caller, Depends(asking)]) -> list[BalanceView]:
        """The trial balance: every account; those of one currency sum to zero."""
        return [BalanceView.of(item) for item in books.trial_balance()]

    @router.get("/ledger/statement")
    def statement(
        _: Annotated[Caller, Depends(asking)],
        account: Annotated[str, Query(max_length=160)],
        currency: Annotated[str, Query(max_length=12)],
    ) -> list[EntryView]:
        """An account's postings in one currency, with the balance after each."""
        return [EntryView.of(item) for item in books.statement(account, currency)]

    @router.post("/ledger/operations")
    def operate(caller: Annotated[Caller, Depends(asking)], body: OperationBody) -> dict[str, int]:
        """Post a prepayment, payment, stake, slash, bounty or dispute, once per key."""
        memo = f"{caller.name}: {body.memo}" if body.memo else caller.name
        number = books.operate(
            body.operation,
            key=body.key,
            amount=parse_decimal(body.amount),
            currency=body.currency,
            day=None if body.day is None else parse_day(body.day),
            tenant=body.tenant,
            operator=body.operator,
            memo=memo,
        )
        return {"journal": number}

    @router.post("/ledger/journals/{number}/mirror")
    def mirror(
        caller: Annotated[Caller, Depends(asking)], number: int, body: StateBody
    ) -> dict[str, int]:
        """Reverse a whole journal, once; `note` says why."""
        return {"journal": books.mirror(number, memo=f"{caller.name}: {body.note}")}


def _add_invoices(router: APIRouter, invoices: Invoicing, asking: Callable[..., Caller]) -> None:
    @router.get("/invoices")
    def listed(
        _: Annotated[Caller, Depends(asking)], operator: NameQuery = None
    ) -> list[InvoiceView]:
        """Stored invoices, the latest first."""
        return [InvoiceView.of(item) for item in invoices.list(operator)]

    @router.post("/invoices/preview")
    def look(_: Annotated[Caller, Depends(asking)], body: InvoiceBody) -> dict[str, Any]:
        """How a file would be read; nothing is stored."""
        found = invoices.look(body.submitted())
        return {
            "format": found.format,
            "problems": found.problem_count,
            "lines": list(lines_of(found)),
        }

    @router.post("/invoices")
    def take(caller: Annotated[Caller, Depends(asking)], body: InvoiceBody) -> ReconciliationView:
        """Store an invoice and compare it with what is proven."""
        number = invoices.take(body.submitted(), by=caller.name)
        return ReconciliationView.of(invoices.reconcile(number, by=caller.name))

    @router.post("/invoices/{number}/reconcile")
    def reconcile(caller: Annotated[Caller, Depends(asking)], number: int) -> ReconciliationView:
        """Compare a stored invoice with what is proven now."""
        return ReconciliationView.of(invoices.reconcile(number, by=caller.name))

    @router.post("/invoices/{number}/state")
    def move(
        caller: Annotated[Caller, Depends(asking)], number: int, body: StateBody
    ) -> ReconciliationView:
        """Dispute, credit or write off a variance; a write-off needs a second person."""
        try:
            state = State(body.state)
        except ValueError as error:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"{body.state!r} is not one of {', '.join(State)}"
            ) from error
        return ReconciliationView.of(invoices.move(number, state, by=caller.name, note=body.note))

    @router.get("/invoices/{number}/letter")
    def letter(
        caller: Annotated[Caller, Depends(asking)],
        number: int,
        form: Annotated[str, Query(pattern="^(text|html)$")] = "text",
    ) -> Response:
        """A letter to the operator that disputes the variance."""
        outcome = invoices.reconcile(number, by=caller.name)
        if form == "html":
            return Response(letter_html(outcome), media_type="text/html")
        return Response(letter_text(outcome), media_type="text/plain")


def _add_export(router: APIRouter, engine: Engine, asking: Callable[..., Caller]) -> None:
    @router.get("/export", response_class=FileResponse)
    def exported(
        caller: Annotated[Caller, Depends(asking)],
        format: Annotated[str, Query(max_length=64)],  # noqa: A002  # the parameter's name
        start: Day | None = None,
        end: Day | None = None,
        time_zone: Annotated[str, Query(max_length=64)] = "UTC",
        period: Annotated[int | None, Query(ge=1)] = None,
        invoice: Annotated[int | None, Query(ge=1)] = None,
        payment_terms: Annotated[str, Query(max_length=200)] = "unstated",
        tenant: NameQuery = None,
        operator: NameQuery = None,
        accounts: Annotated[str | None, Query(max_length=16_384)] = None,
    ) -> FileResponse:
        """A file of the days [start, end) of a time zone, of a billing period or an invoice, in a named format."""
        chosen: ExportFormat = format_named(format)
        if invoice is not None and (period, start, end) != (None, None, None):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                "name one of a billing period, an invoice, and days by start and end",
            )
        days = None if invoice else days_or_period(start, end, time_zone, period)
        folder = tempfile.TemporaryDirectory(prefix="counterfoil-export-")
        path = Path(folder.name) / f"export.{chosen.container}"
        try:
            manifest = export(
                engine,
                path,
                Wanted(
                    format=chosen,
                    period=days,
                    number=period,
                    invoice=invoice,
                    payment_terms=payment_terms,
                    tenant=own(caller, tenant),
                    operator=operator,
                    time_zone=time_zone,
                    accounts=None if accounts is None else accounts.encode(),
                ),
            )
        except BaseException:
            folder.cleanup()
            raise
        header = base64.b64encode(manifest.canonical()).decode()
        return FileResponse(
            path, headers={MANIFEST_HEADER: header}, background=BackgroundTask(folder.cleanup)
        )
