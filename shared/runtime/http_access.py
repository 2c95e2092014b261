"""Enforcement of the rules about who may call what in front of the routes of a FastAPI application."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from shared.runtime.access import Rule, Rules, check_party, rule_of
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import Party
from shared.runtime.traffic import Gate


@dataclass(frozen=True, slots=True, eq=False)
class HttpAccess:
    """Lets requests pass that a rule of the table permits. For `FastAPI(dependencies=[Depends(…)])`."""

    rules: Rules
    behind_proxy: bool = False
    """Whether a proxy has checked the callers' certificates."""
    authenticate: Callable[[Request, Rule], Awaitable[None]] | None = None
    """Checks the token of a call to a route that is for tokens; without it such a route is for nobody."""

    async def __call__(self, request: Request) -> None:
        """Check a request, within its party's rate; FORBIDDEN, and what `authenticate` raises."""
        what = called(request)
        rule = rule_of(self.rules, what)
        party: Party | None = getattr(request.state, "party", None)
        if not self.behind_proxy:
            check_party(rule, what, party)
        gate: Gate | None = getattr(request.state, "gate", None)
        if party is not None and gate is not None:
            gate.party(str(party), what)
        if not rule.tokens:
            return
        if self.authenticate is None:
            raise CounterfoilError(Code.FORBIDDEN, f"no token permits {what} here")
        await self.authenticate(request, rule)


def called(request: Request) -> str:
    """Return the name of the route that answers a request, as the table has it: `GET /v1/statements/{entry}`."""
    included = request.scope.get("fastapi", {}).get("effective_route_context")
    route = (
        included if included is not None else request.scope["route"]
    )  # a nested router's knows no prefix
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {route.path}"
