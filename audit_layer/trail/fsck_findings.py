"""Findings, gaps and deposits, compared with the receipts that they are about."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from audit_layer.trail.columns import (
    ANSWERED_TWICE,
    REFUSED_AND_ANSWERED,
    evidence_digest,
    finding_values,
)
from audit_layer.trail.custodian_findings import SELF_CONTRADICTION, SHARE_MISMATCH
from audit_layer.trail.disagreements import OPPOSITE, WORKERS_DISAGREE
from audit_layer.trail.fsck_parties import Parties, between
from audit_layer.trail.fsck_stored import bundle_of, opened
from audit_layer.trail.gaps import NODE, TENANT
from audit_layer.trail.identities import CONTESTED
from audit_layer.trail.identities import TYPES as IDENTITY_TYPES
from audit_layer.trail.models import (
    CounterRow,
    EvidenceRow,
    FindingRow,
    GapRow,
    ResolutionRow,
    StatementRow,
)
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import open_as, parse_statement, verify_signature
from shared.statements.disclosures import DisclosureRelease, EscrowReport, ShareReport
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal
from shared.statements.verdicts import Verdict

_TYPES = {
    ANSWERED_TWICE: (Receipt.TYPE, Receipt.TYPE),
    REFUSED_AND_ANSWERED: (Refusal.TYPE, Receipt.TYPE),
}
"""Of the statements of a finding, in their order; an equivocation has two of one type."""


def check_findings(db: Session) -> Iterator[str]:
    """Check that each finding's statements are what it says they are."""
    for row in db.scalars(select(FindingRow).order_by(FindingRow.id)):
        where = f"trail_findings[id={row.id}]"
        statements = (row.first_statement, row.second_statement)
        values = finding_values(row.kind, row.issuer, row.detail, statements, row.at)
        if values["digest"] != row.digest:
            columns = ("kind", "first_statement", "second_statement")
            yield f"{where}.digest: is not that of {', '.join(f'{where}.{name}' for name in columns)}"
        if (check := _CHECKS.get(row.kind)) is not None:
            yield from check(db, where, row)
        else:
            yield f"{where}.kind: findings of kind {row.kind!r} are unknown"
        if not between(0, row.at, now_ms()):
            yield f"{where}.at: is in the future"
    resolved = select(ResolutionRow.finding, ResolutionRow.at, FindingRow.at, FindingRow.kind)
    for finding, at, found_at, kind in db.execute(
        resolved.outerjoin(FindingRow, FindingRow.id == ResolutionRow.finding)
    ):
        where = f"trail_resolutions[finding={finding}]"
        if kind != "gap":
            yield f"{where}.finding: there is no such gap among trail_findings.id"
        elif not between(found_at, at, now_ms()):
            yield f"{where}.at: is before the finding, or in the future"


def _contested(db: Session, where: str, row: FindingRow) -> Iterator[str]:
    """Check that a finding about an identity shows an end in the trail, and a statement of a key of that identity."""
    parties = Parties(db)
    for column in ("first_statement", "second_statement"):
        raw = getattr(row, column)
        try:
            statement = parse_statement(raw)
            role = statement.subject.partition("/")[0]
            key = parties.key_of(role, statement) if statement.type in IDENTITY_TYPES else None
            if key is None or statement.subject != row.issuer:
                yield f"{where}.{column}: is not about the keys of {row.issuer}"
                continue
            verify_signature(statement, key)
        except CounterfoilError as error:
            yield f"{where}.{column}: {error.detail}"


def check_answers(db: Session) -> Iterator[str]:
    """Check that every receipt whose order was already answered, or refused, has a finding."""
    rows = db.execute(
        text(
            "SELECT r.log_index, s.raw FROM (SELECT entry, log_index, row_number()"
            " OVER (PARTITION BY order_entry ORDER BY log_index) AS place FROM trail_receipts) r"
            " JOIN trail_statements s USING (entry) WHERE r.place > 1 ORDER BY r.log_index"
        )
    )
    for index, raw in rows:
        if not _told(db, ANSWERED_TWICE, raw):
            yield (
                f"trail_receipts[log_index={index}].order_entry: the order was answered before, and no row says so"
                " in trail_findings.kind"
            )

    rows = db.execute(
        text(
            "SELECT r.log_index, s.raw FROM trail_receipts r JOIN trail_refusals f USING (order_entry)"
            " JOIN trail_statements s ON s.entry = r.entry ORDER BY r.log_index"
        )
    )
    for index, raw in rows:
        if not _told(db, REFUSED_AND_ANSWERED, raw):
            yield (
                f"trail_receipts[log_index={index}].order_entry: the order was refused, and no row says so"
                " in trail_findings.kind"
            )


def _told(db: Session, kind: str, second: bytes) -> bool:
    """Return whether a finding of a kind has this as its second statement."""
    query = select(FindingRow.id).where(
        FindingRow.kind == kind, FindingRow.second_statement == second
    )
    return db.scalar(query.limit(1)) is not None


def check_disagreements(db: Session) -> Iterator[str]:
    """Check that every verdict that another worker's before it contradicts has a finding."""
    rows = db.execute(
        text(
            "SELECT later.log_index, s.raw FROM trail_verdicts later JOIN trail_statements s USING (entry)"
            " WHERE EXISTS (SELECT FROM trail_verdicts earlier WHERE earlier.receipt = later.receipt"
            " AND earlier.log_index < later.log_index AND earlier.worker <> later.worker"
            " AND (earlier.outcome, later.outcome) IN (('PASS', 'FAIL'), ('FAIL', 'PASS')))"
            " ORDER BY later.log_index"
        )
    )
    for index, raw in rows:
        if not _told(db, WORKERS_DISAGREE, raw):
            yield (
                f"trail_verdicts[log_index={index}].outcome: another worker's verdict contradicts it, and no row says"
                " so in trail_findings.kind"
            )


def check_custodians(db: Session) -> Iterator[str]:
    """Check that every share report, and every escrow report of a custodian that also released, has a finding."""
    rows = db.execute(
        text(
            "SELECT s.log_index, s.type, s.raw FROM trail_statements s WHERE s.type = 'share-report'"
            " OR (s.type = 'escrow-report' AND EXISTS (SELECT FROM trail_receipts r JOIN trail_statements o"
            " ON o.type = 'disclosure-release' AND o.subject = s.subject AND o.issuer = s.issuer"
            " AND o.log_index > r.log_index WHERE encode(r.entry, 'hex') = s.subject))"
            " ORDER BY s.log_index"
        )
    )
    for index, kind, raw in rows:
        of = SHARE_MISMATCH if kind == ShareReport.TYPE else SELF_CONTRADICTION
        if not _told(db, of, raw):
            yield (
                f"trail_statements[log_index={index}].type: {kind} against a custodian, and no row says so in"
                " trail_findings.kind"
            )


def _of_custodian(db: Session, where: str, row: FindingRow) -> Iterator[str]:
    """Check that a release, and what speaks against it, are both in the trail and name the custodian."""
    report: ShareReport | EscrowReport
    try:
        release, released = open_as(DisclosureRelease, row.first_statement, None)
        if row.kind == SHARE_MISMATCH:
            report, reported = open_as(ShareReport, row.second_statement, None)
        else:
            report, reported = open_as(EscrowReport, row.second_statement, None)
    except CounterfoilError as error:
        yield f"{where}.first_statement, {where}.second_statement: {error.detail}"
        return
    for column, statement in (("first_statement", released), ("second_statement", reported)):
        held = db.get(StatementRow, statement.entry)
        if held is None:
            yield f"{where}.{column}: is not in the trail"
        elif not between(held.recorded_at, row.at, now_ms()):
            yield f"{where}.at: is before its {column}, or in the future"
    if isinstance(report, ShareReport) and report.release != released.entry:
        yield f"{where}.first_statement, {where}.second_statement: are about different releases"
    if (report.receipt, report.custodian) != (release.receipt, release.custodian):
        yield f"{where}.first_statement, {where}.second_statement: do not speak of one share"
    if row.issuer != release.custodian:
        yield f"{where}.issuer: is not the custodian of first_statement"


def _disagreed(db: Session, where: str, row: FindingRow) -> Iterator[str]:
    """Check that two workers' verdicts about one receipt, both in the trail, are opposite."""
    verdicts: list[Verdict] = []
    for column, raw in (
        ("first_statement", row.first_statement),
        ("second_statement", row.second_statement),
    ):
        try:
            value, statement = open_as(Verdict, raw, None)
        except CounterfoilError as error:
            yield f"{where}.{column}: {error.detail}"
            return
        held = db.get(StatementRow, statement.entry)
        if held is None:
            yield f"{where}.{column}: is not in the trail"
        elif not between(held.recorded_at, row.at, now_ms()):
            yield f"{where}.at: is before its {column}, or in the future"
        verdicts.append(value)
    first, second = verdicts
    if first.receipt != second.receipt:
        yield f"{where}.first_statement, {where}.second_statement: are about different receipts"
    if OPPOSITE.get(first.outcome.value) != second.outcome.value or first.worker == second.worker:
        yield f"{where}.first_statement, {where}.second_statement: do not contradict each other"
    if row.issuer != second.worker:
        yield f"{where}.issuer: is not the worker of second_statement"


def _convicted(db: Session, where: str, row: FindingRow) -> Iterator[str]:
    """Check that two statements of one issuer are about one number, or one order."""
    signed: list[Receipt | Refusal] = []
    for column, stored in (
        ("first_statement", row.first_statement),
        ("second_statement", row.second_statement),
    ):
        try:
            raw = opened(db, stored)
            if raw is None:
                return  # erased since
            statement = parse_statement(raw)
            refused = statement.type == Refusal.TYPE
            value: Receipt | Refusal = (
                statement.read(Refusal) if refused else statement.read(Receipt)
            )
            bundle = bundle_of(db, value.bundle)
            if bundle is None:
                yield f"{where}.{column}: its key bundle is missing"
                continue
            verify_signature(statement, bundle.signing_key)
        except CounterfoilError as error:
            yield f"{where}.{column}: {error.detail}"
            continue
        if not signed:
            held = db.get(StatementRow, statement.entry)
            if held is None:
                yield f"{where}.first_statement: is not in the trail"
            elif not between(held.recorded_at, row.at, now_ms()):
                yield f"{where}.at: is before its first statement, or in the future"
        signed.append(value)
        if statement.issuer != row.issuer:
            yield f"{where}.issuer: is not that of {column}"
    both = f"{where}.first_statement, {where}.second_statement"
    types = [value.TYPE for value in signed]
    expected = _TYPES.get(row.kind)
    if len(types) == 2 and (
        (expected is None and types[0] != types[1]) or expected not in {None, tuple(types)}
    ):
        yield f"{both}: are not two statements that contradict each other"
    elif len({_about(row.kind, value) for value in signed}) > 1:
        numbers = row.kind == "equivocation" and types[0] == Receipt.TYPE
        yield f"{both}: have different {'numbers' if numbers else 'orders'}"


def _about(kind: str, value: Receipt | Refusal) -> int | bytes:
    """Return what may be signed once only, and was signed twice."""
    if kind == "equivocation" and isinstance(value, Receipt):
        return value.node_sequence
    return value.order


def _gap(db: Session, where: str, row: FindingRow) -> Iterator[str]:
    """Check that a gap's neighbours belong to its numbering."""
    for column, stored in (
        ("first_statement", row.first_statement),
        ("second_statement", row.second_statement),
    ):
        try:
            raw = opened(db, stored) if stored else None  # none comes before number 0
            if raw is None:
                continue
            statement = parse_statement(raw)
            if statement.type == Order.TYPE:
                issuer = statement.read(Order).tenant
            else:
                bundle = bundle_of(db, statement.read(Receipt).bundle)
                issuer = "" if bundle is None else f"{bundle.operator}/{bundle.node}"
        except CounterfoilError as error:
            yield f"{where}.{column}: {error.detail}"
            continue
        if issuer != row.issuer:
            yield f"{where}.issuer: is not that of {column}"


def check_gaps(db: Session) -> Iterator[str]:
    """Recompute counters and gaps from the receipts and refusals that were looked at."""
    mark = db.get(CounterRow, ("log", ""))
    looked_at = 0 if mark is None else mark.next
    counters = {
        (row.kind, row.issuer): row.next
        for row in db.scalars(select(CounterRow))
        if row is not mark
    }
    gaps: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for gap in db.scalars(select(GapRow).order_by(GapRow.kind, GapRow.issuer, GapRow.first)):
        runs = gaps.setdefault((gap.kind, gap.issuer), [])
        if runs and runs[-1][1] + 1 == gap.first:  # one run, of which a part was missed earlier
            runs[-1] = (runs[-1][0], gap.last)
        else:
            runs.append((gap.first, gap.last))
        where = f"trail_gaps[id={gap.id}]"
        if not between(0, gap.since, now_ms()):
            yield f"{where}.since: is in the future"
        told = None if gap.finding is None else db.get(FindingRow, gap.finding)
        if gap.finding is not None and (
            told is None or (told.kind, told.issuer) != ("gap", gap.issuer)
        ):
            yield f"{where}.finding: is not a finding about this gap"
    for kind, numbers in _NUMBERS.items():
        for numbering, (following, missing) in _runs(db, kind, numbers, looked_at).items():
            place = f"[kind={numbering[0]}, issuer={numbering[1]}]"
            if counters.pop(numbering, 0) != following:
                yield f"trail_counters{place}.next: the receipts say {following}"
            if gaps.pop(numbering, []) != missing:
                yield f"trail_gaps{place}.first, trail_gaps{place}.last: the receipts say {missing[:4]}"
    for kind, issuer in counters.keys() | gaps.keys():
        for place in (
            f"{table}[kind={kind}, issuer={issuer}]" for table in ("trail_counters", "trail_gaps")
        ):
            yield f"{place}.kind, {place}.issuer: there are no such receipts"


Runs = dict[tuple[str, str], tuple[int, list[tuple[int, int]]]]
"""Numbering → one more than its highest number, and the numbers missing below it."""


_NUMBERS = {
    NODE: (
        "SELECT operator || '/' || node AS issuer, node_sequence AS number FROM trail_receipts"
        " WHERE log_index < :looked_at"
    ),
    TENANT: (
        "SELECT tenant AS issuer, number FROM trail_receipts WHERE log_index < :looked_at AND NOT part"
        " UNION SELECT tenant, number FROM trail_refusals WHERE log_index < :looked_at"
    ),
}
"""Kind of numbering → the numbers that receipts and refusals below a log index have in it."""


def _runs(db: Session, kind: str, numbers: str, looked_at: int) -> Runs:
    """Return what the receipts and refusals below a log index say of one kind of numbering."""
    rows = db.execute(
        text(
            "SELECT issuer, before + 1, number - 1, max(number) OVER (PARTITION BY issuer) + 1"  # noqa: S608  # no input
            " FROM (SELECT issuer, number, lag(number, 1, -1::bigint)"
            " OVER (PARTITION BY issuer ORDER BY number) AS before"
            f" FROM (SELECT DISTINCT issuer, number FROM ({numbers}) AS every) AS numbers) AS steps"
            " ORDER BY issuer, number"
        ),
        {"looked_at": looked_at},
    )
    found: Runs = {}
    for name, first, last, following in rows:
        _, missing = found.setdefault((kind, name), (following, []))
        if first <= last:
            missing.append((first, last))
    return found


def check_evidence(db: Session) -> Iterator[str]:
    """Check that deposits are whole and about receipts of the trail; workers check them against the receipt again."""
    query = select(EvidenceRow).order_by(EvidenceRow.id).execution_options(yield_per=10)
    for row in db.scalars(query):
        where = f"trail_evidence[id={row.id}]"
        if row.digest != evidence_digest(row):
            parts = ("envelope", "node_nonce", "frames", "final_record", "final_signature")
            yield f"{where}.digest: is not that of {', '.join(f'{where}.{part}' for part in parts)}"
        about = db.get(StatementRow, row.receipt)
        if about is None or about.type != Receipt.TYPE:
            yield f"{where}.receipt: is not in the trail"
        elif not between(about.recorded_at, row.deposited_at, now_ms()):
            yield f"{where}.deposited_at: is before the receipt was recorded, or in the future"


_CHECKS: Final[Mapping[str, Callable[[Session, str, FindingRow], Iterator[str]]]] = {
    "equivocation": _convicted,
    ANSWERED_TWICE: _convicted,
    REFUSED_AND_ANSWERED: _convicted,
    WORKERS_DISAGREE: _disagreed,
    SHARE_MISMATCH: _of_custodian,
    SELF_CONTRADICTION: _of_custodian,
    CONTESTED: _contested,
    "gap": _gap,
}
"""Kind of a finding → what holds of its statements."""
