"""A custodian that released a share other than the one the envelope commits to, by a worker's report."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import Values, finding_values
from shared.statements.disclosures import ShareReport

SHARE_MISMATCH: Final = "share-mismatch"

_RELEASES: Final = text("SELECT entry, raw FROM trail_statements WHERE entry = ANY(:entries)")


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
