"""A worker process that takes one case and stops at a point, where it is to be killed."""

from pathlib import Path

from audit_layer.storage.engine import make_engine
from tests.audit_layer.replay import fake_child
from tests.audit_layer.replay.court import FakeAuditServer, mark_and_wait, worker
from tests.audit_layer.trail.conftest import opened

POINTS = ("in mid-replay", "with its verdict stored", "with its verdict in the log")


def run(
    worker_dsn: str, server_dsn: str, number: int, point: str, mark: str, lease_ms: int
) -> None:
    """Work until the point is reached; the mark says so."""
    at = Path(mark)

    def stop(types: list[str]) -> None:
        assert types == ["verdict"]
        mark_and_wait(at)

    with opened(make_engine(server_dsn)) as trail:
        server = FakeAuditServer(trail)
        if point == POINTS[0]:
            command = fake_child.command("hang", at)
        else:
            command = fake_child.command("pass")
        if point == POINTS[1]:
            server.before = stop
        if point == POINTS[2]:
            server.after = stop
        with worker(make_engine(worker_dsn), server, command, lease_ms=lease_ms) as doomed:
            doomed.run(number)
