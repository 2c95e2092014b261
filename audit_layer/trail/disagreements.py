"""Two workers that find opposite things about one receipt: at least one of their machines computes wrongly."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import Values, finding_values
from shared.statements.verdicts import Outcome, Verdict

WORKERS_DISAGREE: Final = "workers-disagree"
OPPOSITE: Final = {Outcome.PASS.value: Outcome.FAIL.value, Outcome.FAIL.value: Outcome.PASS.value}

EARLIER: Final = text(
    "SELECT v.receipt, v.worker, v.outcome, s.raw FROM trail_verdicts v JOIN trail_statements s USING (entry)"
    " WHERE v.receipt = ANY(:receipts) ORDER BY v.log_index"
)


def disagreements(
    connection: Connection, placed: Sequence[tuple[Admitted, int]], now: int
) -> list[Values]:
    """Return a finding for each new verdict that another worker's before it contradicts, with both statements."""
    new = [
        (item.value, item.statement.raw)
        for item, _ in sorted(placed, key=lambda pair: pair[1])
        if isinstance(item.value, Verdict) and item.value.outcome.value in OPPOSITE
    ]
    if not new:
        return []
    rows = connection.execute(EARLIER, {"receipts": list({value.receipt for value, _ in new})})
    before = [(bytes(row.receipt), row.worker, row.outcome, bytes(row.raw)) for row in rows]
    found = []
    for value, raw in new:
        opposite = OPPOSITE[value.outcome.value]
        for receipt, worker, outcome, its_raw in before:
            if receipt == value.receipt and worker != value.worker and outcome == opposite:
                detail = (
                    f"about receipt {receipt.hex()} {worker} finds {outcome}, {value.worker}"
                    f" {value.outcome.value}: one of their machines computes wrongly"
                )
                found.append(
                    finding_values(WORKERS_DISAGREE, value.worker, detail, (its_raw, raw), now)
                )
                break
        before.append((value.receipt, value.worker, value.outcome.value, raw))
    return found
