"""A real Celery worker process: `python celery_process.py BROKER_URL_FILE WORKER_DSN_FILE SERVER_DSN_FILE MARK READY`.

Wired as `audit_layer.wiring.worker` does it, with a double where the disclosure would be, and a replay process that
hangs on the first case of a MARK.
"""

import os
import sys
from pathlib import Path

from audit_layer.replay.tasks import register_worker
from audit_layer.storage.dsn import read_dsn_file
from audit_layer.storage.engine import make_engine
from audit_layer.wiring.broker import make_app
from audit_layer.wiring.worker import WorkerProcess
from shared.runtime.config import read_secret
from tests.audit_layer.replay import fake_child
from tests.audit_layer.replay.court import FakeAuditServer, worker
from tests.audit_layer.trail.conftest import opened


def main(broker: str, worker_dsn: str, server_dsn: str, mark: str, ready: str) -> None:
    app = make_app(read_secret(Path(broker)), worker="worker", authority=False)
    engine = make_engine(read_dsn_file(Path(worker_dsn)), application_name="test-worker")
    with opened(make_engine(read_dsn_file(Path(server_dsn)))) as trail:
        server = FakeAuditServer(trail, after=lambda _: Path(f"{mark}.{os.getpid()}").touch())
        with worker(engine, server, fake_child.command("hang", Path(mark))) as made:
            register_worker(app, made)
            process = WorkerProcess(app, engine, server, made.replayer, [])  # type: ignore[arg-type]  # a double
            process.run("worker", Path(ready), "warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
