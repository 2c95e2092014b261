"""Whom a worker deals with, in one database: a real trail, and doubles where other processes would be."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, select

from audit_layer.disclosure.audit_client import Logged, Proof
from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.disclosure.service import Disclosed
from audit_layer.replay.lease import LeaseTerms
from audit_layer.replay.models import WorkRow
from audit_layer.replay.replayer import Replayer
from audit_layer.replay.worker import Worker
from audit_layer.selection.models import EpochRow
from audit_layer.storage.engine import session
from audit_layer.trail.service import Accepted, Refused, Submission, Trail
from shared.envelope.delivered import Delivered
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import parse_statement
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import World as LogWorld
from tests.audit_layer.replay.inference import H, make_case

LEASE_MS = 600_000


@dataclass
class FakeAuditServer:
    """A double of the gRPC client: submits statements to a real trail. `before(types)` may fail or kill a call."""

    trail: Trail
    log: LogWorld | None = None
    before: Callable[[list[str]], None] = lambda _types: None
    after: Callable[[list[str]], None] = lambda _types: None
    submitted: list[bytes] = field(default_factory=list)

    def submit(self, statements: Sequence[bytes]) -> list[Logged]:
        types = [parse_statement(raw).type for raw in statements]
        self.before(types)
        results = self.trail.submit([Submission(raw) for raw in statements])
        for result in results:
            if isinstance(result, Refused):
                raise result.error
        self.submitted += statements
        self.after(types)
        return [Logged(item.entry, item.index) for item in results if isinstance(item, Accepted)]

    def close(self) -> None:
        """The trail's owner closes it."""

    def publish(self) -> None:
        """Have everything witnessed."""
        assert self.log is not None
        asyncio.run(self.log.publisher().publish())

    def checkpoint(self) -> str:
        assert self.log is not None
        return self.log.proofs().witnessed().note.encode()

    def proof(self, entry: bytes, *, wait_s: float = 0.0) -> Proof | None:
        assert self.log is not None
        try:
            proof = self.log.proofs().prove(entry)
        except CounterfoilError as error:
            if error.code is Code.NOT_WITNESSED:
                return None
            raise
        return Proof(proof.encode(), proof.index)

    def identities(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        rows = [row for name in subjects for row in self.trail.identity(*name.partition("/")[::2])]
        proofs = ((row.raw, self.proof(row.entry)) for row in rows)
        return [(raw, proof.text) for raw, proof in proofs if proof is not None]


class FakeDisclosure:
    """A double of a disclosure that always succeeds; only the replay process looks at what it yields."""

    def open(self, case, *, past_deadline):
        given = make_case()
        found = Ciphertexts(
            b"order", Delivered(given.envelope, H, given.frames, given.final_record, bytes(64))
        )
        return Disclosed(found, given.secret)


@contextmanager
def worker(
    engine: Engine, server: FakeAuditServer, command: Sequence[str], *, lease_ms: int = LEASE_MS
) -> Iterator[Worker]:
    """Return the worker `worker` of `tests.audit_layer.api.statements` with another replay process."""
    replayer = Replayer([], threads=1, timeout_s=60)
    replayer._command = list(command)
    with replayer:
        yield Worker(
            name="worker",
            engine=engine,
            server=server,  # type: ignore[arg-type]  # a double
            disclosure=FakeDisclosure(),  # type: ignore[arg-type]  # a double
            replayer=replayer,
            key=made.key("worker"),
            lease=LeaseTerms(lease_ms, 10 * lease_ms),
        )


def assign(engine: Engine, receipt: bytes, *, deadline: int = made.NOW + made.HOUR) -> int:
    """Put one receipt on the work list of `worker`; return the row's number."""
    with session(engine) as db:
        if db.get(EpochRow, 0) is None:
            db.add(
                EpochRow(
                    epoch=0,
                    state="drawn",
                    opened_at=made.NOW,
                    open_statement=made.epoch_open(),
                    seal_statement=b"seal",
                    draw_statement=b"draw",
                    first=0,
                    size=1,
                )
            )
            db.flush()
        row = WorkRow(
            receipt=receipt,
            kind="primary",
            epoch=0,
            worker="worker",
            request_statement=made.disclosure_request(receipt),
            deadline=deadline,
        )
        db.add(row)
        db.flush()
        return row.id


def row_of(engine: Engine, number: int) -> WorkRow:
    with session(engine) as db:
        return db.scalars(select(WorkRow).where(WorkRow.id == number)).one()


def mark_and_wait(mark: Path) -> None:
    """Say that this point is reached, and stay here until killed."""
    mark.touch()
    signal.pause()
