"""Whether a tenant chose a receipt for an audit, or a draw did: what it chose says nothing about a node's other work."""

from sqlalchemy.orm import Session

from audit_layer.trail.models import StatementRow
from shared.statements.cose import read_as
from shared.statements.disclosures import AuditRequest, DisclosureRequest
from shared.statements.verdicts import Verdict
from shared.verification.disclosure_check import shown_by_client


def tenant_chose(db: Session, verdict: Verdict) -> bool:
    """Return whether a verdict is about what the client itself showed, or its disclosure request names an audit request."""
    if shown_by_client(verdict):
        return True
    request = db.get(StatementRow, verdict.request)
    if request is None or request.type != DisclosureRequest.TYPE:
        return False
    ground = db.get(StatementRow, read_as(DisclosureRequest, request.raw).draw)
    return ground is not None and ground.type == AuditRequest.TYPE
