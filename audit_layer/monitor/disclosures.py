"""What a monitor tells a tenant about a disclosure of its requests: who, why, under what, and what came of it. Pure."""

from audit_layer.monitor.statements import read_payload
from shared.codec.moment import to_rfc3339
from shared.statements.cose import SignedStatement
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
)
from shared.statements.verdicts import Verdict


def summary_of(statement: SignedStatement) -> str:
    """Return one statement about a disclosure in a sentence; FoundError when its payload is not one of its type."""
    about = f"receipt {statement.subject}"
    match statement.type:
        case DisclosureRequest.TYPE:
            asked = read_payload(DisclosureRequest, statement)
            under = "audit request" if asked.reason is DisclosureReason.TENANT else "draw"
            return (
                f"{statement.issuer} requests the disclosure of {about} to the worker with key"
                f" {asked.recipient.hex()}: {asked.reason}, under {under} {asked.draw.hex()},"
                f" until {to_rfc3339(asked.deadline)}"
            )
        case DisclosureRelease.TYPE:
            release = read_payload(DisclosureRelease, statement)
            return f"{release.custodian} releases its share of {about} for request {release.request.hex()}"
        case Verdict.TYPE:
            verdict = read_payload(Verdict, statement)
            return (
                f"{verdict.worker} judges {about}: {verdict.outcome} {verdict.reason},"
                f" under request {verdict.request.hex()}"
            )
        case AuditRequest.TYPE:
            return f"{read_payload(AuditRequest, statement).tenant} wants {about} audited"
        case _:
            return f"{statement.type} about {about} by {statement.issuer}"
