"""What a monitor tells a tenant about a disclosure of its requests: who, why, under what, and what came of it. Pure."""

import json
from typing import Any, Final

from audit_layer.monitor.outbox import Message
from audit_layer.monitor.statements import read_payload
from shared.codec.moment import to_rfc3339
from shared.statements.cose import SignedStatement
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.verdicts import Verdict

TYPE: Final = "counterfoil/v1/disclosure"


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


def request_of(statement: SignedStatement) -> bytes | None:
    """Return the entry of the disclosure request under which a statement was made; None for an audit request."""
    match statement.type:
        case DisclosureRequest.TYPE:
            return statement.entry
        case DisclosureRelease.TYPE:
            return read_payload(DisclosureRelease, statement).request
        case Verdict.TYPE:
            return read_payload(Verdict, statement).request
        case EscrowReport.TYPE:
            return read_payload(EscrowReport, statement).request
        case ShareReport.TYPE:
            return read_payload(ShareReport, statement).request
        case _:
            return None


def message_of(
    origin: str, statement: SignedStatement, index: int, request: SignedStatement | None
) -> Message:
    """Return what a webhook is told of one statement: who, about which receipt, why and under which draw, and the verdict.

    `request` is the disclosure request under which it was made, if it could be had. The body is JSON with sorted keys;
    entries are hexadecimal. There is nothing in it that the log would not show to the tenant.
    """
    asked = None if request is None else read_payload(DisclosureRequest, request)
    facts: dict[str, Any] = {
        "type": TYPE,
        "id": statement.entry.hex(),
        "log": origin,
        "index": index,
        "statement": statement.type,
        "by": statement.issuer,
        "receipt": statement.subject,
        "summary": summary_of(statement),
    }
    if request is not None and asked is not None:
        facts["request"] = {
            "entry": request.entry.hex(),
            "by": request.issuer,
            "reason": asked.reason.value,
            "draw": asked.draw.hex(),
            "recipient": asked.recipient.hex(),
            "deadline": to_rfc3339(asked.deadline),
        }
    if statement.type == Verdict.TYPE:
        verdict = read_payload(Verdict, statement)
        facts["verdict"] = {"outcome": verdict.outcome.value, "reason": verdict.reason.value}
    body = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return Message(statement.entry.hex(), body)
