"""The document that shows a tenant every disclosure of its requests, and what it comes to: format and opening. Pure.

A line is an entry of the log with its inclusion path under the one checkpoint, and the signed statement unless it was
erased. `open_record` believes nothing but keys: it performs step (1) of protocol §6.2.6, and `disclosure_check` the others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.codec.moment import MAX_MS
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import Payload, SignedStatement, parse_statement, verify_signature
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochSeal
from shared.statements.receipts import Receipt
from shared.statements.seals import TenantSeal
from shared.statements.verdicts import Verdict
from shared.translog.policy import verify_witnessed
from shared.translog.proofs import verify_inclusion
from shared.translog.tree import leaf_hash
from shared.verification.completeness import (
    Base64,
    Hex32,
    Moment,
    Part,
    TrustPart,
    Unsigned,
    decoded,
    parse_part,
)
from shared.verification.custodian_record import CustodianRecord, custodian_records
from shared.verification.disclosure_check import (
    DisclosuresChecked,
    Fault,
    Held,
    Wrong,
    check_disclosures,
    shown_by_client,
)
from shared.verification.epoch_record import Placed
from shared.verification.trust import SIGNED_BY, Role, Trust, key_for

FORMAT: Final = "counterfoil-disclosures/1"
SHOWN: Final = "shown"
"""The reason of a verdict about what its client showed (protocol §6.2.8)."""
MAX_LINES: Final = 1_000_000
LongBase64 = Annotated[str, Field(max_length=3 << 19)]
"""A draw or epoch seal can be 2^20 bytes long."""
TYPES: Final[Mapping[str, type[Payload]]] = {
    cls.TYPE: cls
    for cls in (
        Receipt,
        AuditRequest,
        DisclosureRequest,
        DisclosureRelease,
        EscrowReport,
        ShareReport,
        Verdict,
        Draw,
        EpochSeal,
        TenantSeal,
    )
}
"""What the lines of a document may be."""


class Line(Part):
    """One entry of the log."""

    index: Unsigned
    entry: Hex32
    statement: LongBase64 | None
    """The signed statement; null for a receipt that was erased."""
    path: Annotated[tuple[Base64, ...], Field(max_length=63)]
    """Its inclusion path under the document's checkpoint."""


class SignersPart(TrustPart):
    """Whom the check believes: also workers, parties and tenants, by role and name."""

    signers: dict[Literal["worker", "party", "tenant"], dict[str, tuple[Hex32, ...]]] = Field(
        default_factory=dict
    )
    """Signatures of roles that are not given are not verified."""

    def trust(self) -> Trust:
        """Return it in the form that every check takes."""
        base = super().trust()
        named = {
            Role(role): {name: [bytes.fromhex(key) for key in keys] for name, keys in pins.items()}
            for role, pins in self.signers.items()
        }
        return Trust(base.log, {**base.pins, **named})


class DisclosureDocument(Part):
    """All disclosures of one tenant's receipts that began in [start, end), as of one checkpoint."""

    format: Literal["counterfoil-disclosures/1"] = FORMAT
    tenant: Annotated[str, Field(max_length=63)]
    start: Moment
    end: Annotated[int, Field(ge=0, le=MAX_MS + 1, strict=True)]
    made_at: Moment
    trust: SignersPart
    """Whom the maker of the document trusts. A verifier should substitute its own trust."""
    checkpoint: Annotated[str, Field(max_length=1 << 18)]
    """The witnessed checkpoint, a signed note."""
    lines: Annotated[tuple[Line, ...], Field(max_length=MAX_LINES)]
    """By rising index: the receipts, what is about their disclosure, the draws and epoch seals, and the tenant's seals."""


def parse_signers(data: bytes) -> SignersPart:
    """Parse a policy file: a JSON object like `trust` in a document; MALFORMED says what is wrong."""
    return parse_part(SignersPart, data, "the policy")


@dataclass(frozen=True, slots=True)
class DisclosureRow:
    """One disclosure request, or a verdict without one, and what became of it."""

    at: int
    """Log index of the request, or of the verdict."""
    receipt: bytes
    receipt_index: int
    reason: str
    """Why: a reason of §6.2, or `shown` where the client showed the transcript itself."""
    basis: bytes | None
    """The draw or audit request that it names."""
    epoch: int | None
    """Of its draw."""
    worker: str | None
    """To whom: the name in the verdict; None while there is none."""
    recipient: bytes | None
    """Key id of the HPKE key to which the shares were sealed."""
    deadline: int | None
    released: tuple[tuple[str, int], ...]
    """Custodians that released, each with the release's log index."""
    verdict: str | None
    """Outcome and reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a document proves."""

    tenant: str
    receipts: int
    """Of the period."""
    size: int
    """Of the log, as witnessed."""
    sealed: tuple[int, int]
    """The log indexes for which it is sealed that there are no other disclosures."""
    rows: tuple[DisclosureRow, ...]
    faults: tuple[Fault, ...]
    custodians: tuple[CustodianRecord, ...] = ()
    witnessed_at: int = 0
    """When the quorum had seen the log at that size (ms)."""
    unanswered: tuple[int, ...] = ()
    """Log indexes of audit requests of the tenant about receipts for which nothing was disclosed because it asked."""


def parse_record(data: bytes) -> DisclosureDocument:
    """Parse a document strictly; MALFORMED says what is wrong."""
    return parse_part(DisclosureDocument, data, "the document")


def judge_record(
    document: DisclosureDocument, trust: Trust, *, now: int, threshold: int = 1
) -> Answer:
    """Check a document under `trust`, and say what it shows.

    Errors: MALFORMED, UNTRUSTED_KEY, BAD_SIGNATURE, NOT_WITNESSED for a document whose checkpoint cannot be believed or
    whose lines cannot be read; everything else that is wrong is a fault.
    """
    witnessed = verify_witnessed(document.checkpoint, trust.required_log())
    size, root = witnessed.checkpoint.size, witnessed.checkpoint.root
    faults: list[Fault] = []
    opened = [_open(line) for line in document.lines]
    for line, statement in zip(document.lines, opened, strict=True):
        entry = bytes.fromhex(line.entry)
        faults += (Fault(1, wrong, told, entry) for wrong, told in _wrong(line, statement, trust))
        path = [decoded(one) for one in line.path]
        try:
            verify_inclusion(leaf_hash(entry), line.index, size, path, root)
        except CounterfoilError:
            told = f"the log's entry at index {line.index} is not {line.entry}"
            faults.append(Fault(1, Wrong.PROOF, told, entry))
    held, shown = _held(document, opened)
    checked: DisclosuresChecked = check_disclosures(held, now=now, threshold=threshold)
    witnessed_at = 1000 * min(witnessed.times.values())
    asked = [item for item in held.requests if item.value.receipt in shown]
    return Answer(
        tenant=document.tenant,
        receipts=len(shown),
        size=size,
        sealed=checked.sealed,
        rows=tuple(row for row in rows_of(held) if row.receipt in shown),
        faults=(*faults, *checked.faults),
        custodians=custodian_records(held, asked, list(_dated(document, opened)), witnessed_at),
        witnessed_at=witnessed_at,
        unanswered=tuple(item.index for item in unanswered(held) if item.value.receipt in shown),
    )


def _dated(
    document: DisclosureDocument, opened: list[SignedStatement | None]
) -> Iterator[tuple[int, int]]:
    """Yield where in the log a time is stated: by the authority in a seal, by a worker in a verdict."""
    for line, statement in zip(document.lines, opened, strict=True):
        if statement is None:
            continue
        match statement.type:
            case EpochSeal.TYPE:
                yield line.index, statement.read(EpochSeal).at
            case TenantSeal.TYPE:
                yield line.index, statement.read(TenantSeal).at
            case Verdict.TYPE:
                yield line.index, statement.read(Verdict).at


def _open(line: Line) -> SignedStatement | None:
    if line.statement is None:
        return None
    statement = parse_statement(decoded(line.statement))
    if statement.type not in TYPES:
        raise CounterfoilError(Code.MALFORMED, f"a line is a {statement.type}")
    return statement


def _wrong(
    line: Line, statement: SignedStatement | None, trust: Trust
) -> Iterator[tuple[Wrong, str]]:
    """(1) The statement is the entry's, and signed by whom it names where that key is known."""
    if statement is None:
        return
    if statement.entry.hex() != line.entry:
        yield Wrong.PROOF, f"the statement shown at index {line.index} has another entry"
    role = SIGNED_BY.get(statement.type)
    if role is None:  # a receipt: its key bundle's key, which the log's intake has verified
        return
    named = trust.keys(role) if role is Role.AUTHORITY else trust.named(role, statement.issuer)
    if not named:
        if role in trust.pins:
            yield Wrong.SIGNATURE, f"the {statement.type} is signed as {statement.issuer}, unknown"
        return
    try:
        verify_signature(statement, key_for(statement, named))
    except CounterfoilError as error:
        yield Wrong.SIGNATURE, error.detail


def _held(
    document: DisclosureDocument, opened: list[SignedStatement | None]
) -> tuple[Held, frozenset[bytes]]:
    """Return what the lines hold, and the receipts of the period."""
    placed: dict[str, list[Placed[Any]]] = defaultdict(list)
    receipts: dict[bytes, int] = {}
    erased: set[bytes] = set()
    for line, statement in zip(document.lines, opened, strict=True):
        if statement is None:
            receipts[bytes.fromhex(line.entry)] = line.index
            erased.add(bytes.fromhex(line.entry))
            continue
        value = statement.read(TYPES[statement.type])
        placed[statement.type].append(Placed(value, statement, line.index))
    own = [one for one in placed[Receipt.TYPE] if one.value.tenant == document.tenant]
    receipts |= {one.entry: one.index for one in own}
    shown = {one.entry for one in own if document.start <= one.value.started < document.end}
    seals = [one for one in placed[TenantSeal.TYPE] if one.value.tenant == document.tenant]
    held = Held(
        tenant=document.tenant,
        receipts=receipts,
        erased=erased,
        audit_requests=placed[AuditRequest.TYPE],
        requests=placed[DisclosureRequest.TYPE],
        releases=placed[DisclosureRelease.TYPE],
        reports=[*placed[EscrowReport.TYPE], *placed[ShareReport.TYPE]],
        verdicts=placed[Verdict.TYPE],
        draws=placed[Draw.TYPE],
        epochs={one.entry: one.value for one in placed[EpochSeal.TYPE]},
        seals=sorted(seals, key=lambda one: one.value.number),
    )
    return held, frozenset(shown | erased)


def rows_of(held: Held) -> list[DisclosureRow]:
    """Return every disclosure in log order: who asked why, who released when, and what came of it."""
    return sorted((*_requested(held), *_shown_by_client(held)), key=lambda row: row.at)


def unanswered(held: Held) -> Iterator[Placed[AuditRequest]]:
    """Yield the first audit request about each receipt for which no disclosure request has the reason `tenant`."""
    answered = {
        item.value.receipt for item in held.requests if item.value.reason is DisclosureReason.TENANT
    }
    for item in held.audit_requests:
        if item.value.receipt not in answered:
            answered.add(item.value.receipt)
            yield item


def _shown_by_client(held: Held) -> Iterator[DisclosureRow]:
    """Yield what nobody disclosed, by the workers' word: who has not shown it to them knows better."""
    for item in held.verdicts:
        verdict = item.value
        if shown_by_client(verdict):
            yield DisclosureRow(
                at=item.index,
                receipt=verdict.receipt,
                receipt_index=held.receipts.get(verdict.receipt, -1),
                reason=SHOWN,
                basis=None,
                epoch=None,
                worker=verdict.worker,
                recipient=None,
                deadline=None,
                released=(),
                verdict=f"{verdict.outcome} {verdict.reason}",
            )


def _requested(held: Held) -> Iterator[DisclosureRow]:
    epochs = {draw.entry: draw.value.epoch for draw in held.draws}
    verdicts = {item.value.request: item.value for item in reversed(held.verdicts)}
    released: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for release in held.releases:
        released[release.value.request].append((release.value.custodian, release.index))
    for item in held.requests:
        request, verdict = item.value, verdicts.get(item.entry)
        yield DisclosureRow(
            at=item.index,
            receipt=request.receipt,
            receipt_index=request.index,
            reason=request.reason.value,
            basis=request.draw,
            epoch=epochs.get(request.draw),
            worker=None if verdict is None else verdict.worker,
            recipient=request.recipient,
            deadline=request.deadline,
            released=tuple(released[item.entry]),
            verdict=None if verdict is None else f"{verdict.outcome} {verdict.reason}",
        )
