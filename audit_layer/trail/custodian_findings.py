"""What custodians must explain: a share other than the one the envelope commits to, by a worker's report; and a release and an
escrow report about one receipt, by their own signatures."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import Values, finding_values
from shared.statements.disclosures import DisclosureRelease, EscrowReport, ShareReport

SHARE_MISMATCH: Final = "share-mismatch"
SELF_CONTRADICTION: Final = "custodian-contradicts-itself"

_RELEASES: Final = text("SELECT entry, raw FROM trail_statements WHERE entry = ANY(:entries)")

_OPPOSITE: Final = text(
    "SELECT s.issuer, s.subject, s.raw FROM trail_statements s JOIN trail_receipts r"
    " ON s.subject = encode(r.entry, 'hex') AND s.log_index > r.log_index"
    " WHERE r.entry = ANY(:receipts) AND s.type = :type"
)
"""What custodians signed of the other type about some receipts, which are in the log before it."""


def custodian_findings(
    connection: Connection, placed: Sequence[tuple[Admitted, int]], now: int
) -> list[Values]:
    """Return the findings that follow from statements whose rows have just been written."""
    return [*mismatches(connection, placed, now), *contradictions(connection, placed, now)]


def mismatches(
    connection: Connection, placed: Sequence[tuple[Admitted, int]], now: int
) -> list[Values]:
    """Return a finding against the custodian for each new share report, with its release and the report."""
    new = [
        (item.value, item.statement.raw)
        for item, _ in placed
        if isinstance(item.value, ShareReport)
    ]
    if not new:
        return []
    rows = connection.execute(_RELEASES, {"entries": [value.release for value, _ in new]})
    releases = {bytes(row.entry): bytes(row.raw) for row in rows}
    return [
        finding_values(
            SHARE_MISMATCH,
            value.custodian,
            f"{value.worker} opened the share that {value.custodian} released for receipt"
            f" {value.receipt.hex()}: it is not the one that the envelope commits to",
            (releases[value.release], raw),
            now,
        )
        for value, raw in new
    ]


def contradictions(
    connection: Connection, placed: Sequence[tuple[Admitted, int]], now: int
) -> list[Values]:
    """Return a finding for each custodian that released and reported about one receipt, with both statements.

    A custodian that reports says that it cannot release, so it has said one thing to one worker and another to another.
    """
    found = []
    for kind, other in ((DisclosureRelease, EscrowReport), (EscrowReport, DisclosureRelease)):
        new = {
            (item.statement.issuer, item.statement.subject): item.statement.raw
            for item, _ in placed
            if isinstance(item.value, kind)
        }
        if not new:
            continue
        receipts = [bytes.fromhex(subject) for _, subject in new]
        rows = connection.execute(_OPPOSITE, {"receipts": receipts, "type": other.TYPE})
        for custodian, receipt, raw in rows:
            if (mine := new.get((custodian, receipt))) is None:
                continue
            pair = (mine, bytes(raw)) if kind is DisclosureRelease else (bytes(raw), mine)
            detail = (
                f"{custodian} released a share of receipt {receipt}, and reported that it cannot"
            )
            found.append(finding_values(SELF_CONTRADICTION, custodian, detail, pair, now))
    return found
