"""Checks a completeness document with nothing but keys: no database, no server. Pure.

A document that passes proves that the audit authority has signed, in a log that the quorum has witnessed, seals over
exactly the receipts listed (protocol §5.1), and that these seals leave no gap in the period or in the log's indexes. Which
number belongs to which entry is proved where the signed receipt is shown; otherwise, only which numbers exist.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

from shared.codec.moment import to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, parse_statement, read_as
from shared.statements.numbers import Range, count
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal
from shared.statements.seals import (
    TenantSeal,
    entries_digest,
    follows,
    order_numbers,
    refusals_of,
)
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.completeness import Document, ReceiptLine, SealPart, decoded
from shared.verification.trust import Trust

SHOWN_RUNS = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """How many inferences there were, and whether that is all."""

    tenant: str
    start: int
    end: int
    inferences: int
    """Receipts of the period for whole answers: each attempt counts."""
    orders: int
    """Order numbers among them."""
    late: int
    """How many arrived after the seal of their period."""
    unsealed: int
    """How many are not yet counted by any seal."""
    missing: tuple[Range, ...]
    """Order numbers that were skipped in the period and have neither receipt nor refusal, in runs."""
    refused: int
    """How many refusals the period's seals count: attempts that no node accepted."""
    complete: bool
    because: tuple[str, ...]
    """What is missing for "complete"."""
    as_of_size: int | None
    """The log's size at the newest seal in the document."""
    as_of: int | None
    """When that seal was made, ms."""
    receipts_shown: bool
    """Whether the signed receipts were in the document and agree with its lines."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A seal whose signature by the authority was verified."""

    part: SealPart
    seal: TenantSeal
    entry: bytes
    witnessed: bool

    @property
    def name(self) -> str:
        return f"seal {self.seal.number}"


def judge(document: Document, trust: Trust) -> Answer:
    """Check everything and return what follows from it.

    Errors: MALFORMED, BAD_SIGNATURE, UNTRUSTED_KEY, BAD_PROOF, NOT_WITNESSED for a document that is not what it claims to
    be. A document that is honest about what is missing gives an answer that is not complete.
    """
    _require(document.start < document.end, "the period ends before it begins")
    policy = trust.required_log()
    opened = [_open(part, document.tenant, trust, policy) for part in document.seals]
    for one, other in pairwise(opened):
        problem = follows(one.seal, one.entry, other.seal)
        _require(problem is None, f"{other.name}, after {one.name}, {problem}")
    for line in chain(_counted(opened), document.unsealed):
        _check_statement(line, document.tenant)
    _check_lines(document, opened)
    lines = list(_of_period(document, _counted(opened)))
    uncounted = list(_of_period(document, document.unsealed))
    _require(
        len(uncounted) == len(document.unsealed),
        "a receipt is listed that does not belong to the period",
    )
    every = [*lines, *uncounted]
    for field in ("index", "entry"):
        different = {getattr(line, field) for line in every}
        _require(len(different) == len(every), f"two receipts have the same {field}")
    missing = _missing(document, opened)
    because = tuple(_because(document, opened, missing))
    newest = opened[-1].seal if opened else None
    return Answer(
        tenant=document.tenant,
        start=document.start,
        end=document.end,
        inferences=sum(not line.part for line in every),
        orders=len({line.number for line in every if not line.part}),
        late=sum(1 for _ in _of_period(document, _late(opened))),
        unsealed=len(uncounted),
        missing=missing,
        refused=sum(len(item.part.refusals) for item in opened),
        complete=not because,
        because=because,
        as_of_size=None if newest is None else newest.size,
        as_of=None if newest is None else newest.at,
        receipts_shown=bool(every) and all(line.statement is not None for line in every),
    )


def seal_number(part: SealPart) -> int:
    """Return the number of a seal in a document; nothing about it is verified."""
    return read_as(TenantSeal, decoded(part.statement)).number


def _open(part: SealPart, tenant: str, trust: Trust, policy: LogPolicy) -> _Opened:
    raw = decoded(part.statement)
    kid = parse_statement(raw, expected=TenantSeal.TYPE).kid
    seal, statement = open_as(TenantSeal, raw, trust.authority_key(kid, "a seal"))
    _require(seal.tenant == tenant, f"seal {seal.number} belongs to another tenant")
    if part.tlog_proof is not None:
        inclusion = verify_tlog_proof(part.tlog_proof, statement.entry, policy)
        _require(
            inclusion.index >= seal.size,
            f"seal {seal.number} is in the log before the size at which it was taken",
        )
        same_size = inclusion.checkpoint.size == seal.size
        _require(
            not same_size or inclusion.checkpoint.root == seal.root,
            f"seal {seal.number} is about another log",
        )
    return _Opened(part, seal, statement.entry, part.tlog_proof is not None)


def _covering(document: Document, opened: Sequence[_Opened]) -> list[_Opened]:
    return [o for o in opened if o.seal.start < document.end and o.seal.end > document.start]


def _shown(lines: Iterable[ReceiptLine]) -> bool:
    """Whether every line comes with its receipt: a seal binds neither when a late receipt began, nor the time of day.
    If a receipt was erased, only the maker of the document says when it began, so the answer is not complete (`_because`).
    """
    return all(line.statement is not None or line.erased for line in lines)


def _check_lines(document: Document, opened: Sequence[_Opened]) -> None:
    """Check that the lists are those that the seals count, and that the seals' order numbers follow from them."""
    covering = _covering(document, opened)
    before: TenantSeal | None = None
    for item in opened:
        seal, receipts, late = item.seal, item.part.receipts, item.part.late
        context = item is opened[0] and seal.end <= document.start
        _require(context or late is not None, f"{item.name} comes without its late receipts")
        _require(
            item not in covering or receipts is not None, f"{item.name} comes without its receipts"
        )
        known = before is not None or seal.number == 0
        first = 0 if before is None else before.size
        if receipts is not None:
            _check_list(
                receipts,
                (seal.receipts, seal.entries),
                partial(_is_on_time, seal),
                f"the receipts of {item.name}",
            )
            inside = document.start <= seal.start and seal.end <= document.end
            _require(inside or _shown(receipts), f"{item.name} does not show its receipts")
        if late is not None:
            _require(known, f"{item.name} comes without the seal before it")
            _require(_shown(late), f"{item.name} does not show its late receipts")
            _check_list(
                late,
                (seal.late, seal.late_entries),
                partial(_is_late, seal, first),
                f"the late receipts of {item.name}",
            )
        if receipts is not None and late is not None:
            orders = None if before is None else before.orders
            refused = _check_refusals(item, document.tenant, first)
            own = (line.number for line in (*receipts, *late) if not line.part)
            numbers = [*own, *refused]
            _require(
                order_numbers(orders, numbers) == seal.orders,
                f"the order numbers of {item.name} do not follow from its receipts and refusals",
            )
        before = seal


def _check_refusals(item: _Opened, tenant: str, before: int) -> list[int]:
    """Check that the listed refusals are those that a seal counts, given the size of the seal before it; return their numbers."""
    seal, lines = item.seal, item.part.refusals
    what = f"the refusals of {item.name}"
    counted = refusals_of([bytes.fromhex(line.entry) for line in lines])
    _require(counted == seal.refusals, f"{what} are not those that it counts")
    _require(
        all(one.index < other.index for one, other in pairwise(lines)),
        f"{what} are not in the order of the log",
    )
    found = []
    for line in lines:
        raw = decoded(line.statement)
        refusal = read_as(Refusal, raw)
        _require(
            (entry_of(raw).hex(), refusal.tenant) == (line.entry, tenant),
            f"the refusal at index {line.index} does not match its line",
        )
        on_time = seal.start <= refusal.at < seal.end
        late = refusal.at < seal.start and before <= line.index
        _require(
            line.index < seal.size and (on_time or late),
            f"{what}: the one at index {line.index} is not of its period",
        )
        found.append(refusal.number)
    return found


def _is_on_time(seal: TenantSeal, line: ReceiptLine) -> bool:
    return seal.start <= line.started < seal.end and line.index < seal.size


def _is_late(seal: TenantSeal, before: int, line: ReceiptLine) -> bool:
    return line.started < seal.start and before <= line.index < seal.size


def _check_list(
    lines: Sequence[ReceiptLine],
    counted: tuple[int, bytes],
    belongs: Callable[[ReceiptLine], bool],
    what: str,
) -> None:
    digest = entries_digest(bytes.fromhex(line.entry) for line in lines)
    _require((len(lines), digest) == counted, f"{what} are not those that it counts")
    _require(
        all(one.index < other.index for one, other in pairwise(lines)),
        f"{what} are not in the order of the log",
    )
    for line in lines:
        _require(belongs(line), f"{what}: the one at index {line.index} is not of its period")


def _check_statement(line: ReceiptLine, tenant: str) -> None:
    """Check a line against the signed receipt, where it is shown."""
    if line.statement is None:
        return
    raw = decoded(line.statement)
    receipt = read_as(Receipt, raw)
    shown = (entry_of(raw).hex(), receipt.tenant, receipt.number, receipt.attempt, receipt.started)
    _require(
        shown == (line.entry, tenant, line.number, line.attempt, line.started),
        f"the receipt at index {line.index} does not match its line",
    )
    if receipt.chain is not None:
        _require(
            line.part == (receipt.chain.place > 0),
            f"the receipt at index {line.index} is not of the place in a chain that its line says",
        )


def _missing(document: Document, opened: Sequence[_Opened]) -> tuple[Range, ...]:
    """Return the runs of order numbers that the seals of the period skipped, and those that follow directly.
    The latter may have been ordered at the period's end or after it: nobody can tell, so they count against it.
    """
    covering = _covering(document, opened)
    if not covering:
        return ()
    at = opened.index(covering[0])
    first = opened[at - 1].seal.orders.next if at else 0
    newest = opened[-1].seal.orders.numbers()
    return newest.missing_between(first, covering[-1].seal.orders.next)


def _because(
    document: Document, opened: Sequence[_Opened], missing: Sequence[Range]
) -> Iterator[str]:
    if not opened:
        yield "no seal has been made for this tenant yet: the authority makes one at the end of each day or month"
        return
    first, last = opened[0].seal, opened[-1].seal
    if first.number > 0 and first.start > document.start:
        yield f"its seals begin only at {to_rfc3339(first.start)}"
    if last.end < document.end:
        yield f"it is sealed only up to {to_rfc3339(last.end)}"
    unwitnessed = [item.seal.number for item in opened if not item.witnessed]
    if unwitnessed:
        yield f"no witnessed checkpoint covers seal {unwitnessed[0]} yet"
    if missing:
        shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in missing[:SHOWN_RUNS])
        more = ", …" if len(missing) > SHOWN_RUNS else ""
        yield f"{count(missing)} order numbers have no receipt and no refusal: {shown}{more}"
    erased = sum(line.erased and line.statement is None for line in _counted(opened))
    if erased:
        yield f"{erased} receipts were erased, and nothing signed shows when they began"
    if document.unsealed:
        waiting = len(document.unsealed)
        yield f"{waiting} {'receipt is' if waiting == 1 else 'receipts are'} not yet counted by any seal"


def _counted(opened: Iterable[_Opened]) -> Iterator[ReceiptLine]:
    return chain((line for item in opened for line in item.part.receipts or ()), _late(opened))


def _late(opened: Iterable[_Opened]) -> Iterator[ReceiptLine]:
    return (line for item in opened for line in item.part.late or ())


def _of_period(document: Document, lines: Iterable[ReceiptLine]) -> Iterator[ReceiptLine]:
    return (line for line in lines if document.start <= line.started < document.end)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise CounterfoilError(Code.BAD_PROOF, problem)
