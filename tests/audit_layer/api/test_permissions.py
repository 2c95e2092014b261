"""Every route has a permission: a row in the matrix of roles, or a place in the list of what is public."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from audit_layer.wiring.openapi import described_app
from shared.parties.permissions import AUDIT_HTTP
from shared.runtime.access import PUBLIC as PUBLIC_RULE
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import client_context
from tests.audit_layer.served import World, until

ROLES = (("tenant", "acme"), ("operator", "alpha"), ("auditor", None), ("finance", None))
MATRIX = {
    "/v1/receipts": (200, 200, 200, 200),
    "/v1/statements/{entry}": (404, 404, 404, 403),
    "/v1/receipts/{entry}/account": (404, 404, 404, 403),
    "/v1/standings": (200, 200, 200, 200),
    "/v1/refusals": (200, 200, 200, 403),
    "/v1/verdicts": (200, 200, 200, 403),
    "/v1/tenants/{tenant}/completeness": (200, 403, 200, 403),
    "/v1/tenants/{tenant}/disclosures": (200, 403, 200, 403),
    "/v1/epochs": (200, 200, 200, 403),
    "/v1/disclosures": (200, 403, 200, 403),
    "/v1/findings": (403, 403, 200, 403),
    "/v1/status": (403, 403, 200, 403),
    "/v1/costs/totals": (200, 403, 200, 200),
    "/v1/costs/unpaid": (200, 403, 200, 200),
    "/v1/costs/fsck": (403, 403, 403, 200),
    "/v1/costs/periods": (200, 403, 200, 200),
    "/v1/costs/periods/{number}/bill": (404, 403, 404, 404),
    "/v1/costs/contracts": (200, 403, 200, 200),
    "/v1/costs/models": (200, 403, 200, 200),
    "/v1/costs/ledger/balances": (403, 403, 403, 200),
    "/v1/costs/ledger/statement": (403, 403, 403, 200),
    "/v1/costs/invoices": (403, 403, 403, 200),
    "/v1/costs/invoices/{number}/letter": (403, 403, 403, 404),
    "/v1/costs/invoices/{number}/lines/{line}/proof": (403, 403, 403, 404),
    "/v1/costs/export": (200, 403, 200, 200),
    "/v1/costs/centres": (200, 403, 200, 200),
    "/v1/costs/budgets": (200, 403, 200, 200),
    "/v1/costs/budget-status": (200, 403, 200, 200),
}
"""What each role gets. No statement has the entry 00…0, and nothing the number 999, so whoever may ask at all gets 404."""
FINANCE_ONLY = (403, 403, 403)
WRITES: dict[tuple[str, str], tuple[dict[str, Any], int]] = {
    ("POST", "/v1/costs/rate"): ({}, 200),
    ("POST", "/v1/costs/periods/{number}/state"): ({"state": "closing"}, 404),
    ("POST", "/v1/costs/contracts"): ({"terms": {}}, 400),
    ("PUT", "/v1/costs/models/{name}"): ({"model_root": "00" * 32}, 200),
    ("POST", "/v1/costs/plausibility"): (
        {
            "operator": "alpha",
            "start": "2026-01-01",
            "end": "2026-02-01",
            "serving": '[serving]\ndevice = "cpu"\n',
        },
        200,
    ),
    ("PUT", "/v1/costs/budgets/{name}"): (
        {"tenant": "acme", "amount": "1", "currency": "EUR"},
        200,
    ),
    ("POST", "/v1/costs/budgets/{name}/end"): ({"tenant": "acme"}, 200),
    ("POST", "/v1/costs/ledger/operations"): (
        {"operation": "prepay", "key": "1", "amount": "1", "currency": "EUR", "tenant": "acme"},
        200,
    ),
    ("POST", "/v1/costs/ledger/journals/{number}/mirror"): ({"state": "", "note": "x"}, 404),
    ("POST", "/v1/costs/invoices/preview"): ({"content": "e30="}, 400),
    ("POST", "/v1/costs/invoices"): ({"content": "e30="}, 400),
    ("POST", "/v1/costs/invoices/{number}/reconcile"): ({}, 404),
    ("POST", "/v1/costs/invoices/{number}/state"): ({"state": "disputed", "note": "x"}, 404),
}
"""What changes the books, or costs them much: a body, and what finance gets for it. Nobody else may."""
PUBLIC = {
    "/checkpoint",
    "/tile/{path}",
    "/healthz",
    "/metrics",
    "/timestamps",
    "/timestamp/{size}",
    "/v1/public/statements",
    "/openapi.json",
}
VALUES = {
    "entry": "0" * 64,
    "tenant": "acme",
    "path": "0/000",
    "size": "1",
    "number": "999",
    "name": "fox",
    "line": "1",
}
QUERIES: dict[str, dict[str, Any]] = {
    "/v1/tenants/{tenant}/completeness": {"from": 0, "to": 86_400_000},
    "/v1/tenants/{tenant}/disclosures": {"from": 0, "to": 86_400_000},
    "/v1/costs/export": {"format": "focus-1.2-csv", "start": "2026-01-01", "end": "2026-02-01"},
    "/v1/costs/centres": {"start": "2026-01-01", "end": "2026-02-01"},
    "/v1/costs/ledger/statement": {"account": "cash:acme", "currency": "EUR"},
}


def filled(path: str) -> str:
    """Return a path with values in the places of its parameters."""
    return re.sub(r"{(\w+)}", lambda found: VALUES[found[1]], path)


async def served(world: World) -> set[str]:
    """Return the paths of every route, as the server itself lists them."""
    schema = (await world.get("/openapi.json", None)).json()
    return {*schema["paths"], "/openapi.json"}


async def test_every_route_is_in_the_matrix_or_public_by_name(world: World):
    paths = await served(world)
    assert paths == MATRIX.keys() | PUBLIC | {path for _, path in WRITES}
    async with httpx.AsyncClient(
        base_url=world.url, verify=client_context(world.ca), trust_env=False
    ) as client:
        for path in paths - PUBLIC:
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                answer = await client.request(method, filled(path))
                known = path in MATRIX if method == "GET" else (method, path) in WRITES
                assert answer.status_code == (401 if known else 405), (method, path)


async def test_each_role_may_ask_what_its_row_of_the_matrix_says(world: World):
    async def published() -> None:
        if (await world.get("/checkpoint", None)).status_code != 200:
            raise CounterfoilError(Code.NOT_WITNESSED, "not yet")

    await until(published, Code.NOT_WITNESSED)  # what proves something needs a witnessed checkpoint
    for path, expected in MATRIX.items():
        for (role, scope), status in zip(ROLES, expected, strict=True):
            answer = await world.get(filled(path), role, scope, **QUERIES.get(path, {}))
            assert answer.status_code == status, (path, role, answer.text)


async def test_only_finance_changes_the_books(world: World):
    for (method, path), (body, status) in WRITES.items():
        for (role, scope), expected in zip(ROLES, (*FINANCE_ONLY, status), strict=True):
            answer = await world.ask(method, filled(path), role, scope, body)
            assert answer.status_code == expected, (path, role, answer.text)


def every(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield routes, and those of the routers among them."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else every(router.routes)


def test_no_route_is_hidden_from_the_list():
    """What the tests above iterate over is the schema: a route that is left out of it would not be noticed."""
    with described_app() as app:
        routes = list(every(app.routes))
    listed = {route.path for route in routes if route.include_in_schema}
    assert {route.path for route in routes} - listed == {"/openapi.json"}
    written = {path for _, path in WRITES} - MATRIX.keys()
    assert len(listed) == len(MATRIX) + len(PUBLIC) - 1 + len(written)


def test_the_table_of_permissions_names_every_route_and_no_other():
    """A route without an entry answers to nobody; an entry without a route is one that nobody reviews."""
    with described_app() as app:
        listed = {
            (method, context.path)
            for context in effective(app.router)
            for method in context.methods or ()
            if method != "HEAD"
        }
    named = {f"{method} {path}" for method, path in listed}
    assert named | {"GET /openapi.json"} == set(AUDIT_HTTP)


def effective(router: Any) -> Iterator[Any]:
    """Yield every route with its whole path, as requests meet it."""
    for route in router.routes:
        if hasattr(route, "effective_candidates"):
            yield from leaves(route.effective_candidates())
        else:
            yield route


def leaves(candidates: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes among candidates, and those of routers among them."""
    for found in candidates:
        inner = getattr(found, "effective_candidates", None)
        yield from [found] if inner is None else leaves(inner())


def test_the_matrix_and_the_table_agree():
    """The matrix above is written by hand; so is the table. Neither is derived from the other."""
    roles = [role for role, _ in ROLES]
    table = {where.replace(":path}", "}"): rule for where, rule in AUDIT_HTTP.items()}
    matrix = {("GET", path): row for path, row in MATRIX.items()}
    matrix.update({where: (*FINANCE_ONLY, status) for where, (_, status) in WRITES.items()})
    for (method, path), row in matrix.items():
        rule = table[f"{method} {path}"]
        allowed = {role for role, status in zip(roles, row, strict=True) if status != 403}
        assert rule.tokens == allowed, path
    for path in PUBLIC:
        assert table[f"GET {path}"] == PUBLIC_RULE
