"""What each tenant has had from the engine, and how a step's rows are divided."""

from collections.abc import Sequence


class Service:
    """Positions computed for each tenant that has sequences in the engine, on one scale.

    A tenant that comes back starts no lower than the lowest of those present: an absence builds up no credit.
    One that leaves is remembered only while it is ahead of that, so that leaving for a moment erases nothing.
    (Virtual token counters: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024.)
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._present: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._served)

    def enter(self, tenant: str) -> None:
        """Note one more sequence of a tenant."""
        if tenant not in self._present:
            self._served[tenant] = max(self._served.get(tenant, 0), self._lowest())
        self._present[tenant] = self._present.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """Note the end of one of its sequences."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
            lowest = self._lowest()
            self._served = {
                name: served
                for name, served in self._served.items()
                if name in self._present or (self._present and served > lowest)
            }

    def add(self, tenant: str, positions: int) -> None:
        """Count computed positions."""
        self._served[tenant] += positions

    def of(self, tenant: str) -> int:
        """Return where a tenant with sequences in the engine stands."""
        return self._served[tenant]

    def _lowest(self) -> int:
        return min((self._served[name] for name in self._present), default=0)


def fair_shares(wanted: Sequence[int], total: int) -> list[int]:
    """Divide `total` so that nobody gets more than is wanted, and nobody less than another unless it has enough.

    The remainder goes to the first ones, so the first gets something if there is anything.
    """
    shares = [0] * len(wanted)
    unmet = [place for place, want in enumerate(wanted) if want]
    while total and unmet:
        each = max(1, total // len(unmet))
        for place in unmet:
            given = min(each, wanted[place] - shares[place], total)
            shares[place] += given
            total -= given
        unmet = [place for place in unmet if shares[place] < wanted[place]]
    return shares
