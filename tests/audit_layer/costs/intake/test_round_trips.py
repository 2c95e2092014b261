"""Whatever the dialect: an invoice that was written is the invoice that is read."""

from datetime import date, timedelta
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import USAGE, ChargeKind
from audit_layer.costs.exports.table import FORMULAS
from audit_layer.costs.intake.read import preview, read_invoice
from audit_layer.costs.intake.shown import lines_of
from shared.codec.moment import days_period
from shared.codec.money import amount_of, exact_sum, minor_digits
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.intake.writer import COLUMNS, Dialect, placed, write

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True)
DAYS = st.dates(date(1990, 1, 1), date(2090, 1, 1))
LATIN = st.text(st.sampled_from("aZ09 äßé€;,|\t'\"-=+@()/.#<&>"), max_size=20).map(lambda text: " ".join(text.split()))  # fmt: skip
SAFE = LATIN.filter(lambda text: not text.startswith(FORMULAS))
LABELS = SAFE.filter(lambda text: text != "")
MONEY = st.decimals(min_value=0, max_value=10**9, places=4)
NEGATIVE = (ChargeKind.DISCOUNT, ChargeKind.CREDIT)


@st.composite
def lines(draw, currency, back):
    """A line that an operator may state; what a credit note gives back is negative."""
    kind = draw(st.sampled_from([kind for kind in ChargeKind if kind is not ChargeKind.ROUNDING]))
    tokens, price, per = None, None, 1
    amount = draw(MONEY)
    if kind in USAGE:
        per = draw(st.sampled_from([1, 1000, 10**6]))
        if kind is ChargeKind.GPU_SECOND:
            per = per * 1000  # in milliseconds
        if draw(st.booleans()):
            tokens, price = draw(st.integers(0, 10**12)), draw(MONEY)
            amount = amount_of(tokens, price, per)
            if draw(st.booleans()):
                amount = amount.quantize(Decimal(1).scaleb(-minor_digits(currency)), "ROUND_DOWN")
        elif draw(st.booleans()):
            tokens = draw(st.integers(0, 10**12))
    if back and amount:
        amount = amount.copy_negate()
        tokens = None if tokens is None else -tokens
    elif kind in NEGATIVE and amount:
        amount = amount.copy_negate()
    return BilledLine(
        place="",
        line_id="",
        kind=kind,
        amount=amount,
        quantity=tokens,
        unit_price=price,
        per=per,
        tenant=draw(st.none() | NAMES),
        node=draw(st.none() | NAMES),
        model_root=draw(st.none() | st.binary(min_size=32, max_size=32)),
        day=draw(st.none() | DAYS),
        description=draw(SAFE),
    )


@st.composite
def invoices(draw):
    """An invoice or a credit note, and the zone of its days."""
    currency = draw(st.sampled_from(["EUR", "USD", "JPY", "KWD"]))
    corrects = draw(st.none() | LABELS)
    found = draw(st.lists(lines(currency, corrects is not None), min_size=1, max_size=6))
    ids = draw(st.lists(LABELS, min_size=len(found), max_size=len(found), unique=True))
    tenant = draw(st.none() | NAMES)
    made = [
        BilledLine(**{
            **{name: getattr(line, name) for name in BilledLine.__slots__},
            "line_id": line_id,
            "tenant": line.tenant if tenant is None else None,
        })
        for line, line_id in zip(found, ids, strict=True)
    ]  # fmt: skip
    unit = Decimal(1).scaleb(-minor_digits(currency))
    rounding = draw(st.sampled_from([Decimal(0), unit * Decimal("0.9"), unit * Decimal("-0.3")]))
    total = exact_sum([*(line.amount for line in made), rounding])
    if corrects is not None and total > 0:
        rounding, total = Decimal(0), exact_sum(line.amount for line in made)
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
    first = draw(DAYS)
    end = first + timedelta(days=draw(st.integers(1, 400)))
    return zone, BilledInvoice(
        invoice_id=draw(LABELS),
        operator=draw(NAMES),
        currency=currency,
        first=first,
        end=end,
        period=days_period(first, end, zone),
        issued=draw(DAYS),
        lines=tuple(made),
        rounding=rounding,
        total=total,
        tenant=tenant,
        corrects=corrects,
    )


@st.composite
def dialects(draw):
    """A way to write a file."""
    form = draw(st.sampled_from(["csv", "csv", "csv", "xlsx"]))
    decimal = draw(st.sampled_from([".", ","]))
    return Dialect(
        form=form,
        encoding=draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])) if form == "csv" else "utf-8",
        delimiter=draw(st.sampled_from([",", ";", "\t", "|"])),
        quote=draw(st.sampled_from(['"', "'"])),
        decimal=decimal,
        thousands=draw(st.sampled_from([None, " ", "'", "," if decimal == "." else "."])),
        negative=draw(st.sampled_from(["minus", "trailing-minus", "parentheses"])),
        date_format=draw(st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %b %Y"])),
        last_day=draw(st.booleans()),
        preamble=draw(st.integers(0, 3)),
        by_number=draw(st.booleans()),
        order=tuple(draw(st.permutations(list(COLUMNS)))),
        typed=draw(st.booleans()),
    )  # fmt: skip


@given(invoices(), dialects())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_an_invoice_in_any_dialect_is_read_as_it_was_written(given_, dialect):
    zone, invoice = given_
    content, mapping = write(invoice, dialect, zone)
    made = read_invoice(content, mapping=mapping)
    assert made == placed(invoice, dialect)
    shown = preview(content, mapping=mapping)
    assert shown.invoice == made
    assert all(line.isprintable() for line in lines_of(shown))


@given(invoices(), dialects(), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
def test_a_file_with_a_changed_byte_is_read_or_refused(given_, dialect, data):
    zone, invoice = given_
    content, mapping = write(invoice, dialect, zone)
    at = data.draw(st.integers(0, len(content) - 1))
    broken = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
    try:
        read_invoice(broken, mapping=mapping)
    except CounterfoilError as error:
        assert error.code is Code.MALFORMED  # noqa: PT017
        assert error.detail.replace("\n", "").isprintable()  # noqa: PT017
