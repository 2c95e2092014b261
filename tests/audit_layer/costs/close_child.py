"""What a child does until the fault that kills it."""

import os
from collections.abc import Sequence

from audit_layer.costs.closing import Closing
from audit_layer.costs.service import Costs
from audit_layer.storage.engine import make_engine
from audit_layer.trail.service import Submission
from shared.runtime.faults import VARIABLE
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import opened


def work(worker_dsn: str, server_dsn: str, fault: str | None) -> None:
    """Rate, heed and close, as the worker process does; die at `fault` on the way."""
    if fault is not None:
        os.environ[VARIABLE] = fault
    engine, server = make_engine(worker_dsn), make_engine(server_dsn)
    with opened(server) as trail:

        class Log:
            def submit(self, statements: Sequence[bytes]) -> None:
                trail.submit([Submission(raw) for raw in statements])

        costs = Costs(engine)
        while costs.rate_new() or costs.heed_new():
            continue
        Closing("authority", engine, Log(), made.key("authority")).tick(made.NOW)
    engine.dispose()
    server.dispose()
