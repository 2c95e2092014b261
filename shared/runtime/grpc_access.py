"""Enforcement of the rules about who may call what in front of gRPC methods, and who calls one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Final

import grpc

from shared.runtime.access import Rules, check_party, rule_of
from shared.runtime.interceptor import Context, Handler, wrap
from shared.runtime.party import Party, party_in
from shared.runtime.traffic import Gate

_CERTIFICATE: Final = "x509_pem_cert"


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets a gRPC call pass if the table has a rule that permits it, within its party's rate."""

    def __init__(self, rules: Rules, gate: Gate) -> None:
        self._rules = rules
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the method's handler in the check; an unknown method stays unknown."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        rule = rule_of(self._rules, method)

        @asynccontextmanager
        async def passing(context: Context) -> AsyncIterator[None]:
            party = calling_party(context)
            check_party(rule, method, party)
            if party is not None:
                self._gate.party(str(party), method)
            yield

        return wrap(handler, passing)


def calling_party(context: Context) -> Party | None:
    """Return the party whose certificate the caller of a gRPC method has shown; None without one."""
    shown = context.auth_context().get(_CERTIFICATE)
    return None if shown is None else next(map(_read, shown), None)


@lru_cache(maxsize=1024)
def _read(certificate: bytes) -> Party | None:
    return party_in(certificate)
