"""What the receipts behind a line of an invoice come to: which are payable (protocol §8.3), and the arithmetic. Pure.

The maker of a proof and its checker compute this alike; whether the statements are genuine is `line_proof`'s matter.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final

from shared.codec.money import exact_sum, format_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import Order
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt
from shared.verification.chain_claims import Link
from shared.verification.line_proof_file import Claim, Figures, Term
from shared.verification.opinions import Opinion
from shared.verification.payable import COMPLETE, Standing, State, standings
from shared.verification.payable import Claim as Claimed
from shared.verification.rating import RatedLine, TokenKind, rated

_EXACT: Final = Context(prec=240, traps=[Inexact, InvalidOperation, Overflow])


@dataclass(frozen=True, slots=True)
class Known:
    """A receipt with what decides whether it is payable and what it comes to."""

    entry: bytes
    index: int
    receipt: Receipt
    order: Order
    operator: str
    card: RateCard | None
    """The rate card that it names, if that is in the log before it."""
    opinions: Sequence[Opinion] = ()
    refused: bytes | None = None
    """Entry of the refusal of its order, if the log has one."""

    @property
    def request(self) -> tuple[str, int]:
        """The request of which it is an attempt: tenant and number."""
        return self.receipt.tenant, self.receipt.number

    def rated(self) -> tuple[tuple[RatedLine, ...], str | None]:
        """Return its lines at the signed prices, or why there are none."""
        return rated(self.receipt, self.card, self.operator, self.order)


def outcomes(receipts: Iterable[Known]) -> dict[bytes, Standing]:
    """Return what becomes of each of these receipts, which hold every known attempt of their requests (protocol §8.3)."""
    known = list(receipts)
    claims = [
        Claimed(
            receipt=item.entry,
            log_index=item.index,
            order=item.receipt.order,
            tenant=item.receipt.tenant,
            number=item.receipt.number,
            attempt=item.receipt.attempt,
            complete=item.receipt.finish.value in COMPLETE,
            unbillable=item.rated()[1],
            refused=item.refused,
            link=Link.of(item.receipt, item.order),
        )
        for item in known
    ]
    return standings(claims, [opinion for item in known for opinion in item.opinions])


def figures(
    receipts: Iterable[Known],
    becomes: Mapping[bytes, Standing],
    claims: Sequence[Claim],
    *,
    currency: str,
    fx_rate: Decimal,
) -> Figures:
    """Return the arithmetic of the kinds that the claims bill, of receipts that are payable or held.

    `currency` is that of the figures where there is no such receipt. Errors: CONFLICT for prices in several currencies.
    """
    kinds = {claim.kind for claim in claims}
    counted = [item for item in receipts if becomes[item.entry].state is not State.REFUSED]
    currencies = {item.card.currency for item in counted if item.card is not None} or {currency}
    if len(currencies) > 1:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the receipts are priced in {' and '.join(sorted(currencies))}, which do not add up",
        )
    terms = _terms(counted, kinds)
    waiting = [item for item in counted if becomes[item.entry].state is State.HELD]
    proven = _EXACT.multiply(_sum(terms), fx_rate)
    billed = exact_sum(Decimal(claim.amount) for claim in claims)
    return Figures(
        currency=currencies.pop(),
        terms=terms,
        held=_text(_sum(_terms(waiting, kinds))),
        fx_rate=_text(fx_rate),
        proven=_text(proven),
        billed=_text(billed),
        difference=_text(_EXACT.subtract(billed, proven)),
    )


def added(parts: Sequence[Figures]) -> Figures:
    """Return the figures of a line from those of its parts; those with terms have currency and exchange rate in common."""
    groups: dict[tuple[int, str, Decimal, int], list[Term]] = defaultdict(list)
    order = list(TokenKind)
    for term in (term for part in parts for term in part.terms):
        unit = Decimal(term.unit_price)
        groups[order.index(term.kind), term.rate_card, unit, term.per].append(term)
    terms = tuple(
        same_price[0].model_copy(
            update={
                "quantity": sum(term.quantity for term in same_price),
                "amount": _text(_sum(same_price)),
            }
        )
        for _, same_price in sorted(groups.items(), key=lambda group: group[0])
    )
    first = next((part for part in parts if part.terms), parts[0])
    billed = Decimal(first.billed)
    proven = exact_sum(Decimal(part.proven) for part in parts)
    return first.model_copy(
        update={
            "terms": terms,
            "held": _text(exact_sum(Decimal(part.held) for part in parts)),
            "proven": _text(proven),
            "difference": _text(_EXACT.subtract(billed, proven)),
        }
    )


def same(one: Figures, other: Figures) -> bool:
    """Whether two arithmetics are the same numbers, however they are written."""
    return _numbers(one) == _numbers(other)


def tokens_of(terms: Iterable[Term]) -> dict[TokenKind, int]:
    """Return the tokens by kind."""
    found: dict[TokenKind, int] = defaultdict(int)
    for term in terms:
        found[term.kind] += term.quantity
    return dict(found)


def _terms(receipts: Iterable[Known], kinds: Collection[TokenKind]) -> tuple[Term, ...]:
    order = list(TokenKind)
    groups: dict[tuple[int, str, Decimal, int], list[RatedLine]] = defaultdict(list)
    for item in receipts:
        for line in item.rated()[0]:
            if line.kind in kinds:
                card = item.receipt.rate_card.hex()
                groups[order.index(line.kind), card, line.unit_price, line.per].append(line)
    return tuple(
        Term(
            kind=order[kind],
            rate_card=card,
            quantity=sum(line.quantity for line in lines),
            unit_price=_text(unit),
            per=per,
            amount=_text(exact_sum(line.amount for line in lines)),
        )
        for (kind, card, unit, per), lines in sorted(groups.items())
    )


def _sum(terms: Iterable[Term]) -> Decimal:
    return exact_sum(Decimal(term.amount) for term in terms)


def _text(number: Decimal) -> str:
    """Write a decimal in plain notation without zeros at its end."""
    text = format_decimal(number)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _numbers(given: Figures) -> tuple[object, ...]:
    amounts = (given.held, given.fx_rate, given.proven, given.billed, given.difference)
    terms = [
        (term.kind, term.rate_card, term.quantity, Decimal(term.unit_price), term.per, Decimal(term.amount))
        for term in given.terms
    ]  # fmt: skip
    return given.currency, terms, [Decimal(amount) for amount in amounts]
