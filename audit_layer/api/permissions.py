"""Who may see what. Whether a role may ask at all, one table says (`shared.parties.permissions`); what a route lists of
others' does not exist for the caller.
"""

from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit_layer.api.tokens import Access, Role, Tokens
from audit_layer.trail.models import ReceiptRow, RefusalRow, StatementRow
from audit_layer.trail.service import Trail
from shared.codec.moment import to_rfc3339
from shared.parties.permissions import AUDIT_HTTP
from shared.runtime.access import Rule, check_token_role
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http_access import HttpAccess, called
from shared.runtime.problems import EXPIRES_HEADER
from shared.runtime.traffic import Gate
from shared.statements.cose import parse_statement

PUBLIC_TYPES: Final = frozenset(
    {
        "key-bundle",
        "revocation",
        "rate-card",
        "epoch-open",
        "epoch-seal",
        "draw",
        "beacon-commitment",
        "beacon-reveal",
    }
)
"""Statements that concern everybody: keys, prices, and how selection was made."""

IDENTITY_TYPES: Final = frozenset({"identity-key", "identity-key-end"})
"""Public for operators. A tenant's, like its name, are for whoever can name it (`Directory.ListIdentityKeys`)."""

_bearer = HTTPBearer(auto_error=False, description="A token of `counterfoil token create`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def access_to(tokens: Tokens) -> HttpAccess:
    """Return the check in front of every route: what the table of permissions says, with these tokens."""

    async def authenticate(request: Request, rule: Rule) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            raise CounterfoilError(
                Code.UNAUTHENTICATED,
                "the request carries no token",
                remedy="Send the header `Authorization: Bearer TOKEN`.",
            )
        access = await run_in_threadpool(tokens.authenticate, token.strip())
        check_token_role(rule, access.role)
        gate: Gate | None = getattr(request.state, "gate", None)
        if access.tenant is not None and gate is not None:
            gate.tenant(access.tenant, called(request))
        request.state.access = access
        request.state.token_expires = access.expiring

    return HttpAccess(AUDIT_HTTP, authenticate=authenticate)


def asking(request: Request, _: Credentials) -> Access:
    """Return who asks, as the check in front of the route has found."""
    access: Access = request.state.access
    return access


Caller = Annotated[Access, Depends(asking)]


class ExpiryWarning:
    """Adds the header `counterfoil-token-expires` (RFC 3339) to the answers to a token that expires soon."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""

        async def warning(message: Message) -> None:
            expires = scope.get("state", {}).get("token_expires")
            if message["type"] == "http.response.start" and expires is not None:
                header = (EXPIRES_HEADER.encode(), to_rfc3339(expires).encode())
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, warning)


def own_tenant(access: Access, asked: str | None) -> str | None:
    """Return the tenant to search for; any tenant other than the caller's own is NOT_FOUND."""
    return _own(access.tenant, asked)


def own_operator(access: Access, asked: str | None) -> str | None:
    """Return the operator to search for; any operator other than the caller's own is NOT_FOUND."""
    return _own(access.operator, asked)


def _own(limit: str | None, asked: str | None) -> str | None:
    if limit is not None and asked is not None and asked != limit:
        raise CounterfoilError(Code.NOT_FOUND, f"this token sees nothing of {asked[:64]!r}")
    return limit or asked


def may_see(access: Access, row: StatementRow, trail: Trail) -> bool:
    """Whether a statement exists for this access."""
    if access.role is Role.AUDITOR or row.type in PUBLIC_TYPES:
        return True
    if row.type in IDENTITY_TYPES:
        own = f"tenant/{access.scope}" if access.role is Role.TENANT else None
        return row.subject.startswith("operator/") or row.subject == own
    if row.type in {"tenant-seal", "erasure", "period-seal"}:  # they reveal business volume
        return access.role is Role.TENANT and row.subject == access.scope
    about = _indexed(row, trail)
    if about is None:
        return False
    if access.role is Role.OPERATOR:
        return row.type in {"receipt", "refusal", "verdict"} and about.operator == access.scope
    return access.role is Role.TENANT and about.tenant == access.scope


def _indexed(row: StatementRow, trail: Trail) -> ReceiptRow | RefusalRow | None:
    """Return the receipt that a statement is, or is about, or the refusal that it is."""
    if row.type == "receipt":
        return trail.receipt_row(row.entry)
    if row.type == "refusal":
        return trail.refusal_row(row.entry)
    named = parse_statement(row.raw).payload.get("receipt")
    return trail.receipt_row(named) if isinstance(named, bytes) else None
