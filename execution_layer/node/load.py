"""How much is in flight, for whom, and whether new work is accepted."""

import asyncio
from collections import Counter

from execution_layer.node.settings import Quotas
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.rates import RateLimit

RETRY_AFTER_S = 1.0


class Load:
    """Counts requests from their admission to their receipt. Belongs to one event loop."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._by_tenant: Counter[str] = Counter()
        per_s = quotas.requests_per_s_per_tenant
        self._rate = RateLimit(per_s, max(1.0, 4 * per_s))
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests that have no receipt yet."""
        return self._by_tenant.total()

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._draining

    def refusal(self) -> CounterfoilError | None:
        """Return why all requests are refused; None if they are not."""
        if not self._draining:
            return None
        return CounterfoilError(Code.DRAINING, "the node is draining", remedy="Use another node.")

    def enter(self, tenant: str) -> None:
        """Take a place for a request; DRAINING, QUOTA or OVERLOADED if there is none, QUOTA if the tenant orders too often."""
        if (refused := self.refusal()) is not None:
            raise refused
        self.pace(tenant, "Generate")
        if self._by_tenant[tenant] >= self._quotas.in_flight_per_tenant:
            raise CounterfoilError(
                Code.QUOTA,
                f"{tenant} has {self._quotas.in_flight_per_tenant} requests in flight",
                retry_after_s=RETRY_AFTER_S,
            )
        if self.in_flight >= self._quotas.in_flight:
            raise CounterfoilError(
                Code.OVERLOADED,
                f"the node has {self._quotas.in_flight} requests in flight",
                retry_after_s=RETRY_AFTER_S,
            )
        self.enter_again(tenant)

    def pace(self, tenant: str, method: str) -> None:
        """Count a call that a tenant has signed; QUOTA if it calls this method too often, from wherever it does."""
        if wait := self._rate.take((tenant, method)):
            most = self._quotas.requests_per_s_per_tenant
            raise CounterfoilError(
                Code.QUOTA,
                f"{tenant} calls {method} more than {most:g} times a second",
                retry_after_s=wait,
            )

    def enter_again(self, tenant: str) -> None:
        """Take a place for a request that had one before a restart."""
        self._by_tenant[tenant] += 1
        self._idle.clear()

    def leave(self, tenant: str) -> None:
        """Release a place."""
        assert self._by_tenant[tenant] > 0
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        if not self.in_flight:
            self._idle.set()

    def drain(self) -> None:
        """Refuse new work from now on."""
        self._draining = True

    async def wait_idle(self) -> None:
        """Return once nothing is in flight."""
        await self._idle.wait()
