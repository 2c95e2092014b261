"""The metrics of the audit server, read from its database when somebody asks; docs/operations/metrics.md lists them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Engine, text

from audit_layer.api.parts import Parts, status_of
from audit_layer.log.proof_service import ProofService
from audit_layer.storage.engine import transaction
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.metrics import Counter, Exposition, Kind, Metric, Reading
from shared.runtime.rpc_metrics import rpc_readings

LOG_SIZE: Final = Metric("counterfoil_log_size", Kind.GAUGE, "Entries of the log.")
WITNESSED_SIZE: Final = Metric(
    "counterfoil_log_witnessed_size",
    Kind.GAUGE,
    "Entries under the newest witnessed checkpoint; missing before the first.",
)
LOG_LAG: Final = Metric(
    "counterfoil_log_lag_seconds",
    Kind.GAUGE,
    "How long the oldest entry without a witnessed checkpoint has waited for one; 0 if there is none.",
)
CHECKPOINT_AGE: Final = Metric(
    "counterfoil_log_checkpoint_age_seconds",
    Kind.GAUGE,
    "Age of the oldest cosignature that the newest checkpoint's quorum needs; missing before the first.",
)
COSIGNERS: Final = Metric(
    "counterfoil_log_checkpoint_witnesses",
    Kind.GAUGE,
    "Witnesses that have cosigned the newest checkpoint.",
)
STATEMENTS: Final = Metric(
    "counterfoil_statements", Kind.GAUGE, "Statements in the log.", ("type",)
)
FINDINGS: Final = Metric(
    "counterfoil_findings", Kind.GAUGE, "Findings: equivocations, gaps, what no honest party does."
)
VERDICTS: Final = Metric(
    "counterfoil_verdicts",
    Kind.GAUGE,
    "Verdicts in the log, by outcome and reason.",
    ("outcome", "reason"),
)
EPOCHS_BEHIND: Final = Metric(
    "counterfoil_epochs_behind", Kind.GAUGE, "Epochs that are sealed and not drawn."
)
EPOCHS_BEHIND_AGE: Final = Metric(
    "counterfoil_epochs_behind_seconds",
    Kind.GAUGE,
    "How long ago the oldest of them was sealed; 0 if there is none.",
)
EPOCHS_WHOLE: Final = Metric(
    "counterfoil_epochs_audited_whole",
    Kind.GAUGE,
    "Epochs that were audited whole, for want of a timely beacon.",
)
WORK: Final = Metric(
    "counterfoil_audit_work",
    Kind.GAUGE,
    "Audits that are not done: waiting for a worker, leased to one, or expired, whose lease ran out.",
    ("state",),
)
WORK_OVERDUE: Final = Metric(
    "counterfoil_audit_work_overdue",
    Kind.GAUGE,
    "Of these, those whose time to ask for evidence is over.",
)
WORK_FAILED: Final = Metric(
    "counterfoil_audit_work_failed",
    Kind.GAUGE,
    "Of these, those in which the auditor's own side has failed.",
)
UNRATED: Final = Metric(
    "counterfoil_receipts_unrated",
    Kind.GAUGE,
    "Receipts in the log that the books do not have yet.",
)
CASES: Final = Metric(
    "counterfoil_reconciliation_cases",
    Kind.GAUGE,
    "Invoices that were reconciled, by what became of their variance.",
    ("state",),
)
UNRECONCILED: Final = Metric(
    "counterfoil_reconciliation_missing", Kind.GAUGE, "Invoices that were never reconciled."
)
PERIODS: Final = Metric(
    "counterfoil_billing_periods",
    Kind.GAUGE,
    "Billing periods that somebody has begun to close, by state.",
    ("state",),
)
SERVER: Final = (
    *(LOG_SIZE, WITNESSED_SIZE, LOG_LAG, CHECKPOINT_AGE, COSIGNERS, STATEMENTS, FINDINGS, VERDICTS),
    *(EPOCHS_BEHIND, EPOCHS_BEHIND_AGE, EPOCHS_WHOLE, WORK, WORK_OVERDUE, WORK_FAILED),
    *(UNRATED, CASES, UNRECONCILED, PERIODS),
)

_OLDEST: Final = "SELECT recorded_at FROM log_entries WHERE index >= :size ORDER BY index LIMIT 1"
_VERDICTS: Final = (
    "SELECT outcome, reason, count(*) FROM trail_verdicts GROUP BY 1, 2 ORDER BY 1, 2"
)
_EPOCHS: Final = """
SELECT count(*) FILTER (WHERE state = 'sealed'), min(sealed_at) FILTER (WHERE state = 'sealed'),
       count(*) FILTER (WHERE whole) FROM replay_epochs
"""
_WORK: Final = """
SELECT count(*) FILTER (WHERE leased_until IS NULL), count(*) FILTER (WHERE leased_until >= :now),
       count(*) FILTER (WHERE leased_until < :now), count(*) FILTER (WHERE deadline < :now),
       count(*) FILTER (WHERE failures > 0) FROM replay_work WHERE done_at IS NULL
"""
_UNRATED: Final = """
SELECT count(*) FROM trail_receipts
 WHERE log_index > (SELECT coalesce(max(log_index), -1) FROM costs_rated_receipts)
"""
_CASES: Final = """
SELECT state, count(*) FROM (SELECT DISTINCT ON (invoice) state FROM costs_case_events ORDER BY invoice, turn DESC) latest
 GROUP BY state ORDER BY state
"""
_UNRECONCILED: Final = """
SELECT count(*) FROM costs_invoices i WHERE NOT EXISTS (SELECT FROM costs_reconciliations r WHERE r.invoice = i.id)
"""
_PERIODS: Final = """
SELECT state, count(*) FROM (SELECT DISTINCT ON (period) state FROM costs_period_events ORDER BY period, turn DESC) latest
 GROUP BY state ORDER BY state
"""


def server_metrics(parts: Parts, calls: Counter) -> Exposition:
    """Return the metrics of an audit server that serves."""
    engine = parts.engine
    return Exposition(
        "audit server",
        parts.origin,
        {
            "calls": lambda: rpc_readings(calls),
            "the log": lambda: log_readings(parts),
            "cosignatures": lambda: cosignature_readings(engine, parts.proofs),
            "audits": lambda: audit_readings(engine),
            "the books": lambda: book_readings(engine),
        },
    )


def log_readings(parts: Parts) -> Iterator[Reading]:
    """Yield what the log and the trail have."""
    status = status_of(parts.origin, parts.engine, parts.trail, parts.proofs)
    yield LOG_SIZE(status.size)
    if status.witnessed_size is not None:
        yield WITNESSED_SIZE(status.witnessed_size)
    for kind, count in status.statements.items():
        yield STATEMENTS(count, kind)
    yield FINDINGS(status.findings)


def cosignature_readings(engine: Engine, proofs: ProofService) -> Iterator[Reading]:
    """Yield how far witnesses are behind."""
    size, now = 0, now_ms()
    try:
        witnessed = proofs.witnessed()
    except CounterfoilError as error:
        if error.code is not Code.NOT_WITNESSED:
            raise
    else:
        size = witnessed.checkpoint.size
        yield COSIGNERS(len(witnessed.times))
        if witnessed.times:
            yield CHECKPOINT_AGE(max(0.0, now / 1000 - min(witnessed.times.values())))
    oldest = [at for (at,) in _rows(engine, _OLDEST, size=size)]
    yield LOG_LAG(max(0, now - oldest[0]) / 1000 if oldest else 0)


def audit_readings(engine: Engine) -> Iterator[Reading]:
    """Yield what was judged, and what waits to be."""
    now = now_ms()
    for outcome, reason, count in _rows(engine, _VERDICTS):
        yield VERDICTS(count, outcome, reason)
    [(behind, since, whole)] = _rows(engine, _EPOCHS)
    yield EPOCHS_BEHIND(behind)
    yield EPOCHS_BEHIND_AGE(0 if since is None else max(0, now - since) / 1000)
    yield EPOCHS_WHOLE(whole)
    [(waiting, leased, expired, overdue, failed)] = _rows(engine, _WORK, now=now)
    yield WORK(waiting, "waiting")
    yield WORK(leased, "leased")
    yield WORK(expired, "expired")
    yield WORK_OVERDUE(overdue)
    yield WORK_FAILED(failed)


def book_readings(engine: Engine) -> Iterator[Reading]:
    """Yield how far the books are."""
    yield UNRATED(_rows(engine, _UNRATED)[0][0])
    for state, count in _rows(engine, _CASES):
        yield CASES(count, state)
    yield UNRECONCILED(_rows(engine, _UNRECONCILED)[0][0])
    for state, count in _rows(engine, _PERIODS):
        yield PERIODS(count, state)


def _rows(engine: Engine, query: str, **values: int) -> Sequence[Any]:
    with transaction(engine) as connection:
        return connection.execute(text(query), values).all()
