"""The routes of the query API: authenticate, limit to what the token may see, translate."""

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from audit_layer.api.account_schemas import AccountView
from audit_layer.api.parts import EPOCH_TYPES, Parts, status_of
from audit_layer.api.permissions import Caller, may_see, own_operator, own_tenant
from audit_layer.api.schemas import (
    FindingView,
    Page,
    ReceiptView,
    RefusalView,
    StatementSummary,
    StatementView,
    StatusView,
    VerdictView,
)
from audit_layer.api.standing_schemas import StandingView
from audit_layer.replay.account import account_of
from audit_layer.trail import disclosure_document
from audit_layer.trail.completeness_document import build
from audit_layer.trail.models import StatementRow
from audit_layer.trail.pages import MAX_PAGE, Span, find_entry
from audit_layer.trail.reading import ReceiptQuery
from shared.codec.ids import MIN_PREFIX, NAME, parse_hex32
from shared.codec.moment import MAX_MS, Period
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.completeness import Document
from shared.verification.disclosure_record import DisclosureDocument

MAX_ANSWERED = 50_000
"""Receipts in one answer about completeness; the command lists more."""

NAME_PATTERN = f"^{NAME.pattern}$"


class Order(StrEnum):
    """The end of the log at which a list begins."""

    ASC = "asc"
    DESC = "desc"


def _span(
    after: Annotated[
        int,
        Query(
            ge=-1,
            le=2**63 - 1,
            description="Log index after which the page begins, in its order; -1 for the first page.",
        ),
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    order: Annotated[Order, Query(description="Oldest (asc) or newest (desc) first.")] = Order.ASC,
) -> Span:
    return Span(after, limit, newest_first=order is Order.DESC)


Paged = Annotated[Span, Depends(_span)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
NameQuery = Annotated[str | None, Query(pattern=NAME_PATTERN)]
NodeQuery = Annotated[
    str | None,
    Query(
        pattern=f"^({NAME.pattern}/)?{NAME.pattern}$",
        description="A node's name, or operator/node as tables and issuers show it.",
    ),
]
HashQuery = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")]
MsQuery = Annotated[int | None, Query(ge=0, le=MAX_MS, description="Unix milliseconds.")]
Entry = Annotated[
    str,
    Path(
        pattern=f"^[0-9a-f]{{{MIN_PREFIX},64}}$",
        description=f"Log entry, hexadecimal, or at least its first {MIN_PREFIX} digits.",
    ),
]


def query_router(parts: Parts) -> APIRouter:
    """Return the routes under `/v1`, apart from costs."""
    router = APIRouter(prefix="/v1", tags=["query"])
    for add in (
        _add_receipts,
        _add_statements,
        _add_refusals,
        _add_verdicts,
        _add_account,
        _add_standings,
        _add_completeness,
        _add_disclosure_record,
        _add_audit,
        _add_overview,
    ):
        add(router, parts)
    return router


def _add_receipts(router: APIRouter, parts: Parts) -> None:
    @router.get("/receipts")
    def receipts(
        access: Caller,
        page: Paged,
        tenant: NameQuery = None,
        operator: NameQuery = None,
        node: NodeQuery = None,
        model_root: HashQuery = None,
        started_from: MsQuery = None,
        started_to: MsQuery = None,
    ) -> Page[ReceiptView]:
        """Receipts by tenant, operator, node, model and time [started_from, started_to)."""
        operator, node = _node(operator, node)
        query = ReceiptQuery(
            tenant=own_tenant(access, tenant),
            operator=own_operator(access, operator),
            node=node,
            model_root=None if model_root is None else parse_hex32(model_root, "a model root"),
            started_from=started_from,
            started_to=started_to,
        )
        rows = parts.trail.receipts(query, page)
        views = [ReceiptView.of(row) for row in rows]
        return Page[ReceiptView].of(views, [row.log_index for row in rows], page.limit)


def _add_statements(router: APIRouter, parts: Parts) -> None:
    @router.get("/statements/{entry}")
    def statement(access: Caller, entry: Entry) -> StatementView:
        """One signed statement with its payload, its bytes and its proof of inclusion."""
        row = parts.trail.statement(find_entry(parts.engine, entry))
        if row is None or not may_see(access, row, parts.trail):
            raise CounterfoilError(Code.NOT_FOUND, "there is no such statement")
        return StatementView.with_proof(row, parts.proofs.tlog_proof_or_none(row.entry))


def _add_refusals(router: APIRouter, parts: Parts) -> None:
    @router.get("/refusals")
    def refusals(
        access: Caller,
        page: Paged,
        tenant: NameQuery = None,
        operator: NameQuery = None,
        node: NodeQuery = None,
    ) -> Page[RefusalView]:
        """Attempts that nodes did not accept, by tenant, operator and node: they close their order numbers."""
        operator, node = _node(operator, node)
        rows = parts.trail.refusals(
            tenant=own_tenant(access, tenant),
            operator=own_operator(access, operator),
            node=node,
            page=page,
        )
        views = [RefusalView.of(row) for row in rows]
        return Page[RefusalView].of(views, [row.log_index for row in rows], page.limit)


def _add_verdicts(router: APIRouter, parts: Parts) -> None:
    @router.get("/verdicts")
    def verdicts(
        access: Caller,
        page: Paged,
        tenant: NameQuery = None,
        operator: NameQuery = None,
        node: NodeQuery = None,
    ) -> Page[VerdictView]:
        """Verdicts, by the parties that they concern."""
        operator, node = _node(operator, node)
        rows = parts.trail.verdicts(
            tenant=own_tenant(access, tenant),
            operator=own_operator(access, operator),
            node=node,
            page=page,
        )
        views = [VerdictView.of(row) for row in rows]
        return Page[VerdictView].of(views, [row.log_index for row in rows], page.limit)


def _add_account(router: APIRouter, parts: Parts) -> None:
    @router.get("/receipts/{entry}/account")
    def account(access: Caller, entry: Entry) -> AccountView:
        """What the audit did about one receipt: drawn or not, what every worker checked and found, what is payable."""
        found = find_entry(parts.engine, entry)
        row, receipt = parts.trail.statement(found), parts.trail.receipt_row(found)
        if row is None or receipt is None or not may_see(access, row, parts.trail):
            raise CounterfoilError(Code.NOT_FOUND, "there is no such receipt")
        return AccountView.of(account_of(parts.engine, receipt), parts.costs.payability(found))


def _add_standings(router: APIRouter, parts: Parts) -> None:
    @router.get("/standings")
    def standings(
        _access: Caller,
        operator: NameQuery = None,
        node: NodeQuery = None,
    ) -> list[StandingView]:
        """How nodes stand by the verdicts in the log (protocol 6.4); a node that no verdict is about is not listed."""
        operator, node = _node(operator, node)
        records = parts.standings.records()
        return [
            StandingView.of(key, records)
            for key in sorted(records)
            if operator in {None, key[0]} and node in {None, key[1]}
        ]


def _add_completeness(router: APIRouter, parts: Parts) -> None:
    @router.get("/tenants/{tenant}/completeness")
    def completeness(
        access: Caller,
        tenant: Annotated[str, Path(pattern=NAME_PATTERN)],
        start: Annotated[int, Query(alias="from", ge=0, le=MAX_MS)],
        end: Annotated[int, Query(alias="to", ge=0, le=MAX_MS)],
    ) -> Document:
        """A tenant's inferences that began in [from, to), as the log has them, with a proof.

        `counterfoil log complete --check` verifies the answer.
        """
        own_tenant(access, tenant)
        return build(parts.engine, parts.proofs, tenant, Period(start, end), limit=MAX_ANSWERED)


def _add_disclosure_record(router: APIRouter, parts: Parts) -> None:
    @router.get("/tenants/{tenant}/disclosures")
    def disclosure_record(
        access: Caller,
        tenant: Annotated[str, Path(pattern=NAME_PATTERN)],
        start: Annotated[int, Query(alias="from", ge=0, le=MAX_MS)],
        end: Annotated[int, Query(alias="to", ge=0, le=MAX_MS)],
    ) -> DisclosureDocument:
        """All disclosures of a tenant's receipts that began in [from, to), with a proof that nothing is hidden.

        `counterfoil audit disclosures --from … --to …` verifies the answer.
        """
        own_tenant(access, tenant)
        return disclosure_document.build(parts.engine, parts.proofs, tenant, Period(start, end))


def _add_audit(router: APIRouter, parts: Parts) -> None:
    @router.get("/epochs")
    def epochs(_access: Caller, page: Paged) -> Page[StatementSummary]:
        """How receipts were selected: epoch opens, epoch seals and draws."""
        rows = sorted(
            (row for kind in EPOCH_TYPES for row in parts.trail.statements(type=kind, page=page)),
            key=lambda row: row.log_index,
            reverse=page.newest_first,
        )
        return _page(rows[: page.limit], page.limit)

    @router.get("/disclosures")
    def disclosures(
        access: Caller,
        page: Paged,
        tenant: NameQuery = None,
    ) -> Page[StatementSummary]:
        """Disclosures to the audit layer: audit requests, requests, releases, reports where a share does not fit, verdicts."""
        rows = parts.trail.disclosures(tenant=own_tenant(access, tenant), page=page)
        return _page(rows, page.limit)


def _add_overview(router: APIRouter, parts: Parts) -> None:
    @router.get("/findings")
    def findings(_access: Caller, limit: Limit = 100) -> list[FindingView]:
        """Findings that issuers must explain, the latest first."""
        return [FindingView.of(row, resolved) for row, resolved in parts.trail.findings(limit)]

    @router.get("/status")
    def status(_access: Caller) -> StatusView:
        """Figures of the log and the trail."""
        return status_of(parts.origin, parts.engine, parts.trail, parts.proofs)


def _node(operator: str | None, node: str | None) -> tuple[str | None, str | None]:
    """Return the operator and node to search for; `node` may be written operator/node."""
    if node is None or "/" not in node:
        return operator, node
    named, _, bare = node.partition("/")
    if operator not in {None, named}:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"node={node} is not a node of operator={operator}"
        )
    return named, bare


def _page(rows: list[StatementRow], limit: int) -> Page[StatementSummary]:
    views = [StatementSummary.of(row) for row in rows]
    return Page[StatementSummary].of(views, [row.log_index for row in rows], limit)
