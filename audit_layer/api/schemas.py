"""The query API's answers. Hashes and keys are lower-case hexadecimal, times are Unix milliseconds.

A field that the signed statement omits is null, never zero.
"""

import base64
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from audit_layer.trail.models import FindingRow, ReceiptRow, RefusalRow, StatementRow, VerdictRow
from shared.statements.cose import parse_statement

T = TypeVar("T")


class View(BaseModel):
    """Base of all answers; their docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Page(View, Generic[T]):
    """A page in log order, from the end that was asked for."""

    items: list[T]
    next: int | None
    """Value of `after` for the next page; null when this is the last."""

    @classmethod
    def of(cls, items: list[T], indexes: list[int], limit: int) -> Self:
        """Return the page; a full one may have a successor."""
        return cls(items=items, next=indexes[-1] if indexes and len(indexes) >= limit else None)


class ReceiptView(View):
    """One receipt's facts for search and accounting; the statement itself is the evidence."""

    entry: str
    log_index: int
    order: str
    bundle: str
    tenant: str
    number: int
    attempt: int
    operator: str
    node: str
    node_sequence: int
    model_root: str
    numeric_profile: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    compute_ms: int | None
    energy_mj: int | None
    energy_quality: str
    finish: str
    started: int
    ended: int
    rate_card: str

    @classmethod
    def of(cls, row: ReceiptRow) -> Self:
        """Translate a row."""
        return cls(
            order=row.order_entry.hex(),
            **{name: _plain(getattr(row, name)) for name in cls.model_fields if name != "order"},
        )


class RefusalView(View):
    """One refusal: an attempt that its node did not accept."""

    entry: str
    log_index: int
    order: str
    bundle: str
    tenant: str
    number: int
    attempt: int
    operator: str
    node: str
    reason: str
    at: int

    @classmethod
    def of(cls, row: RefusalRow) -> Self:
        """Translate a row."""
        return cls(
            order=row.order_entry.hex(),
            **{name: _plain(getattr(row, name)) for name in cls.model_fields if name != "order"},
        )


class VerdictView(View):
    """One verdict, with the parties that its receipt concerns."""

    entry: str
    log_index: int
    receipt: str
    worker: str
    outcome: str
    reason: str
    confirms: str | None
    at: int
    tenant: str
    operator: str
    node: str
    asked: bool
    """Whether the receipt's tenant chose it for this audit, and no draw did."""

    @classmethod
    def of(cls, row: VerdictRow) -> Self:
        """Translate a row."""
        return cls(**{name: _plain(getattr(row, name)) for name in cls.model_fields})


class StatementSummary(View):
    """A statement with its payload as JSON: byte strings in hexadecimal."""

    entry: str
    log_index: int
    type: str
    signer: str
    """Key id of the signer."""
    issuer: str
    subject: str
    recorded_at: int
    payload: dict[str, Any]

    @classmethod
    def of(cls, row: StatementRow) -> Self:
        """Translate a row."""
        return cls(**_summary(row))


class StatementView(StatementSummary):
    """A statement with everything needed to verify it."""

    raw: str | None
    """The signed bytes, base64; null when they were erased."""
    erased: bool
    """Whether the content was erased: then `payload` is empty, and entry and proof still hold."""
    tlog_proof: str | None
    """C2SP tlog-proof of inclusion; null until a witnessed checkpoint covers the statement."""

    @classmethod
    def with_proof(cls, row: StatementRow, tlog_proof: str | None) -> Self:
        """Translate a row."""
        raw = base64.b64encode(row.raw).decode("ascii") if row.raw else None
        return cls(**_summary(row), raw=raw, erased=raw is None, tlog_proof=tlog_proof)


class FindingView(View):
    """Something that an issuer must explain, with both signed statements (base64).

    For a gap they are its neighbours; the first is empty when the gap begins at number 0. An erased one is empty too.
    """

    id: int
    kind: str
    issuer: str
    detail: str
    first_statement: str
    second_statement: str
    at: int
    resolved_at: int | None
    """When the last missing number of a gap arrived; null while the finding stands."""

    @classmethod
    def of(cls, row: FindingRow, resolved_at: int | None) -> Self:
        """Translate a row."""
        return cls(
            id=row.id,
            kind=row.kind,
            issuer=row.issuer,
            detail=row.detail,
            first_statement=base64.b64encode(row.first_statement).decode("ascii"),
            second_statement=base64.b64encode(row.second_statement).decode("ascii"),
            at=row.at,
            resolved_at=resolved_at,
        )


class StatusView(View):
    """Figures of the log and the trail."""

    origin: str
    size: int
    """Entries sequenced."""
    witnessed_size: int | None
    """Entries that the newest witnessed checkpoint covers; null before the first."""
    witnessed_root: str | None
    statements: dict[str, int]
    """Count by type."""
    findings: int


def _summary(row: StatementRow) -> dict[str, Any]:
    return {
        "entry": row.entry.hex(),
        "log_index": row.log_index,
        "type": row.type,
        "signer": row.signer.hex(),
        "issuer": row.issuer,
        "subject": row.subject,
        "recorded_at": row.recorded_at,
        "payload": _plain(dict(parse_statement(row.raw).payload)) if row.raw else {},
    }


def _plain(value: Any) -> Any:
    """Return a value in JSON's types: byte strings, including map keys, in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
