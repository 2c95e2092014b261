"""What a gRPC server's calls come to, as metrics of every process that has one."""

from collections.abc import Iterable
from typing import Final

from shared.runtime.metrics import Counter, Kind, Metric, Reading

CALLS: Final = Metric(
    "counterfoil_rpc_calls_total",
    Kind.COUNTER,
    "gRPC calls that have ended, by method and by OK, CANCELLED or the error's code; `other` for what is no method of ours.",
    ("method", "code"),
)
RPC: Final = (CALLS,)


def rpc_readings(calls: Counter) -> Iterable[Reading]:
    """Return what an interceptor has counted."""
    return calls.readings(CALLS)
