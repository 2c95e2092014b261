"""Bill arithmetic: every term by examples that were worked out by hand, and what holds for all of them."""

import json
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.contracts.bill import Bill, Usage, Used, make_bill
from audit_layer.costs.contracts.terms import Terms, Tier, graduated
from shared.runtime.errors import Code, CounterfoilError

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
INPUT, CACHED, OUTPUT = TOKENS
NOVEMBER = date(2026, 11, 30)


def terms(**changes: Any) -> Terms:
    whole = {"tenant": "acme", "operator": "alpha", "valid_from": "2026-01-01", **changes}
    return Terms.parse(json.dumps(whole).encode())


def usage(*amounts: str, currency: str = "EUR", **changes: Any) -> Usage:
    """Usage of model one: input, cached, output."""
    used = [Used(ONE, kind, 1, Decimal(a)) for kind, a in zip(TOKENS, amounts, strict=False)]
    return Usage(used=changes.pop("used", used), currency=currency, **changes)


def bill(given: Usage, *, used: dict[str, str] | None = None, day: date = NOVEMBER, **changes: Any) -> Bill:  # fmt: skip
    before = {name: Decimal(amount) for name, amount in (used or {}).items()}
    return make_bill(given, terms(**changes), day, before)


def charged(found: Bill) -> list[tuple[str, str]]:
    return [(charge.kind.value, f"{charge.amount.normalize():f}") for charge in found.charges]


TIERS = [{"above": "1000", "percent": "5"}, {"above": "10000", "percent": "12.5"}]
EXAMPLES: list[tuple[str, Usage, dict[str, Any], list[tuple[str, str]], str]] = [
    ("the rate card alone", usage("1.10", "0.20", "3.00"), {}, [], "4.3"),
    ("nothing at all", usage(), {}, [], "0"),
    ("rounding half to even, down", usage("0.125"), {}, [("rounding", "-0.005")], "0.12"),
    ("rounding half to even, up", usage("0.135"), {}, [("rounding", "0.005")], "0.14"),
    ("rounding half up", usage("0.125"), {"rounding": {"mode": "half-up"}}, [("rounding", "0.005")], "0.13"),
    ("rounding down", usage("0.129"), {"rounding": {"mode": "down"}}, [("rounding", "-0.009")], "0.12"),
    ("rounding down of a credit", usage("-0.129"), {"rounding": {"mode": "down"}}, [("rounding", "0.009")], "-0.12"),
    ("half to even of a credit", usage("-0.125"), {}, [("rounding", "0.005")], "-0.12"),
    ("half up of a credit", usage("-0.125"), {"rounding": {"mode": "half-up"}}, [("rounding", "-0.005")], "-0.13"),
    ("six digits", usage("0.1234565"), {"rounding": {"digits": 6}}, [("rounding", "-0.0000005")], "0.123456"),
    ("yen have no cents", usage("99.5", currency="JPY"), {}, [("rounding", "0.5")], "100"),
    ("dinars have three digits", usage("0.0005", currency="KWD"), {}, [("rounding", "-0.0005")], "0"),
    ("below the first tier", usage("1000"), {"discounts": [{"tiers": TIERS}]}, [], "1000"),
    # 5 % of (10 000 − 1000) + 12.5 % of (12 000 − 10 000) = 450 + 250
    ("two tiers", usage("2000", "0", "10000"), {"discounts": [{"tiers": TIERS}]}, [("discount", "-700")], "11300"),
    # 5 % of (3000 − 1000); 10 % of all 4000 of output; the tiers of each look at their own part alone
    (
        "by kind", usage("3000", "500", "4000"),
        {"discounts": [{"kind": "input", "tiers": TIERS}, {"kind": "output", "tiers": [{"above": "0", "percent": "10"}]}]},
        [("discount", "-100"), ("discount", "-400")], "7000",
    ),
    (
        "by model", usage(used=[Used(ONE, INPUT, 1, Decimal(2000)), Used(TWO, INPUT, 1, Decimal(9000))]),
        {"discounts": [{"model": ONE.hex(), "tiers": TIERS}]}, [("discount", "-50")], "10950",
    ),
    ("nothing off what is taken back", usage("-5000"), {"discounts": [{"tiers": TIERS}]}, [], "-5000"),
    ("a minimum", usage("3"), {"minimum": "5"}, [("minimum", "2")], "5"),
    ("a minimum that is reached", usage("5"), {"minimum": "5"}, [], "5"),
    ("no minimum takes back a correction", usage("-3"), {}, [], "-3"),
    ("a credit after the minimum", usage("3"), {"minimum": "5", "credits": [{"id": "a", "amount": "1"}]},
     [("minimum", "2"), ("credit", "-1")], "4"),
    ("a credit is not paid out", usage("3"), {"credits": [{"id": "a", "amount": "100"}]}, [("credit", "-3")], "0"),
    ("a credit pays nothing of a negative bill", usage("-3"), {"credits": [{"id": "a", "amount": "100"}]}, [], "-3"),
    # what expires first is used first; what does not expire last; of two that are alike the first by name
    (
        "credits in order", usage("10"),
        {"credits": [{"id": "never", "amount": "100"}, {"id": "b", "amount": "4", "valid_to": "2027-01-01"},
                     {"id": "a", "amount": "3", "valid_to": "2027-01-01"},
                     {"id": "soon", "amount": "2", "valid_to": "2026-12-01"}]},
        [("credit", "-2"), ("credit", "-3"), ("credit", "-4"), ("credit", "-1")], "0",
    ),
    ("a credit has expired on its day", usage("3"), {"credits": [{"id": "a", "amount": "1", "valid_to": "2026-11-30"}]}, [], "3"),
    ("a credit holds until its day", usage("3"), {"credits": [{"id": "a", "amount": "1", "valid_to": "2026-12-01"}]},
     [("credit", "-1")], "2"),
    # 50 % of 2; and of all of it
    ("a failed answer", usage("3", failed=Decimal(2)), {"credit_for_failed": "50"}, [("credit", "-1")], "2"),
    ("a failed answer without credit", usage("3", failed=Decimal(2)), {}, [], "3"),
    ("cached as metered", usage("3", cached_saving=Decimal("0.75")), {}, [], "3"),
    ("cached as input", usage("3", cached_saving=Decimal("0.75")), {"cached": "as-input"}, [("fee", "0.75")], "3.75"),
    ("per request", usage("3", requests=1234), {"per_request": "0.01"}, [("request", "12.34")], "15.34"),
    ("per GPU-second", usage("3", gpu_ms=2500), {"per_gpu_second": "0.4"}, [("gpu-second", "1")], "4"),
    ("fees of nothing", usage("3"), {"per_request": "1", "per_gpu_second": "1"}, [], "3"),
    # 100 USD at 0.9 are 90 EUR: tiers and minimum are in the billing currency
    (
        "exchange", usage("100", currency="USD", failed=Decimal(10), cached_saving=Decimal(20), requests=5),
        {"currency": "EUR", "fx": [{"currency": "USD", "valid_from": "2026-01-01", "rate": "0.9"}], "cached": "as-input",
         "per_request": "1", "credit_for_failed": "50", "discounts": [{"tiers": [{"above": "80", "percent": "10"}]}]},
        [("fee", "18"), ("request", "5"), ("discount", "-1"), ("credit", "-4.5")], "107.5",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "changes", "charges", "total"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES]
)  # fmt: skip
def test_a_bill_is_what_was_worked_out_by_hand(
    given: Usage, changes: dict[str, Any], charges: list[tuple[str, str]], total: str
):
    found = bill(given, **changes)
    assert charged(found) == charges
    assert found.total == Decimal(total)


RATES = [("2026-01-01", "0.90"), ("2026-11-30", "0.95"), ("2026-12-01", "1.10")]


@pytest.mark.parametrize(
    ("day", "rate"),
    [("2026-01-31", "0.90"), ("2026-11-29", "0.90"), ("2026-11-30", "0.95"), ("2026-12-31", "1.10")],
)  # fmt: skip
def test_the_exchange_rate_is_that_of_the_periods_last_day(day: str, rate: str):
    fx = [{"currency": "USD", "valid_from": first, "rate": value} for first, value in RATES]
    found = bill(usage("100", currency="USD", held=Decimal(10)), currency="EUR", fx=fx, day=date.fromisoformat(day))  # fmt: skip
    assert (found.fx_rate, found.usage, found.usage_priced) == (Decimal(rate), 100 * Decimal(rate), Decimal(100))  # fmt: skip
    assert found.held == 10 * Decimal(rate)
    assert found.due == 90 * Decimal(rate)


def test_without_a_rate_for_the_day_there_is_no_bill():
    late = {"currency": "USD", "valid_from": "2026-12-01", "rate": "1"}
    other = {"currency": "CHF", "valid_from": "2026-01-01", "rate": "1"}
    for rates in ([], [late], [other]):
        with pytest.raises(CounterfoilError, match="no exchange rate from USD to EUR") as caught:
            bill(usage("1", currency="USD"), currency="EUR", fx=rates)
        assert caught.value.code is Code.CONFLICT


def test_what_earlier_periods_used_of_a_credit_is_gone():
    both = [{"id": "a", "amount": "10"}, {"id": "b", "amount": "10"}]
    found = bill(usage("9"), used={"a": "7.5", "b": "10"}, credits=both)
    assert charged(found) == [("credit", "-2.5")]
    assert found.charges[0].id == "a"
    assert bill(usage("9"), used={"a": "12"}, credits=both).total == 0


def test_a_discount_is_on_tokens_only_and_tiers_rise():
    for kind in ("request", "gpu-second", "tax", "fee"):
        with pytest.raises(CounterfoilError, match="kind must be one of input, cached, output"):
            terms(discounts=[{"kind": kind, "tiers": TIERS}])
    with pytest.raises(CounterfoilError, match="tiers must rise"):
        terms(discounts=[{"tiers": TIERS[::-1]}])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"minimum": "-1"}, "minimum"),
        ({"minimum": 5}, "minimum"),
        ({"minimum": "NaN"}, "minimum"),
        ({"minimum": "1e3"}, "minimum"),
        ({"credit_for_failed": "100.1"}, "credit_for_failed"),
        ({"currency": "eur"}, "currency"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"valid_to": "2026-01-01"}, "valid_to is not after valid_from"),
        ({"credits": [{"id": "a", "amount": "1"}] * 2}, "credits has an entry twice"),
        (
            {
                "discounts": [
                    {"tiers": [{"above": "0", "percent": "60"}]},
                    {"tiers": [{"above": "5", "percent": "41"}], "kind": "output"},
                ]
            },
            "more than 100 percent",
        ),
        ({"fx": [{"currency": "USD", "valid_from": "2026-01-01", "rate": "0"}]}, "fx"),
        ({"rounding": {"digits": 13}}, "rounding.digits"),
        ({"rounding": {"digits": True}}, "rounding.digits"),
        ({"tenant": "../x"}, "tenant"),
        ({"minimun": "1"}, "did you mean minimum"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused_by_name(change: dict[str, Any], field: str):
    with pytest.raises(CounterfoilError, match=field) as caught:
        terms(**change)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 10_000, b"3", b" " * 300_000])
def test_what_is_no_contract_at_all_is_malformed(data: bytes):
    with pytest.raises(CounterfoilError) as caught:
        Terms.parse(data)
    assert caught.value.code is Code.MALFORMED


# -- what holds for all terms --------------------------------------------------------------------------------------

places = st.integers(0, 12)
positive = st.decimals("0", "100000", places=9).map(lambda d: format(d, "f"))
tiny = st.decimals("0", "0.000001", places=12).map(lambda d: format(d, "f"))
percents = st.decimals("0", "100", places=6).map(lambda d: format(d, "f"))
signed = st.decimals("-100000", "100000", places=12)
tiers = st.lists(st.tuples(positive, percents), min_size=1, max_size=5, unique_by=lambda t: Decimal(t[0])).map(
    lambda found: [{"above": a, "percent": p} for a, p in sorted(found, key=lambda t: Decimal(t[0]))]
)  # fmt: skip
contracts = st.fixed_dictionaries(
    {},
    optional={
        "rounding": st.fixed_dictionaries({"mode": st.sampled_from(["half-even", "half-up", "down"]), "digits": places}),
        "cached": st.sampled_from(["as-metered", "as-input"]),
        "per_request": positive | tiny,
        "per_gpu_second": positive | tiny,
        "discounts": st.lists(st.fixed_dictionaries({"tiers": tiers}), max_size=1),
        "minimum": positive,
        "credits": st.dictionaries(st.sampled_from(["a", "b", "c"]), positive).map(
            lambda found: [{"id": name, "amount": amount} for name, amount in found.items()]),
        "credit_for_failed": percents,
        "currency": st.just("CHF"),
        "fx": positive.filter(lambda text: Decimal(text) > 0).map(
            lambda rate: [{"currency": "EUR", "valid_from": "2026-01-01", "rate": rate}]),
    },
).filter(lambda found: "currency" not in found or "fx" in found)  # fmt: skip
usages = st.builds(
    Usage,
    used=st.lists(st.builds(Used, st.sampled_from([ONE, TWO]), st.sampled_from(TOKENS), st.just(1), signed), max_size=4),
    currency=st.just("EUR"),
    requests=st.integers(-100, 10**6),
    gpu_ms=st.integers(-100, 10**9),
    failed=st.decimals("0", "1000", places=12),
    cached_saving=signed,
    held=st.decimals("0", "1000", places=12),
)  # fmt: skip


@given(given=usages, changes=contracts)
def test_the_total_is_usage_and_charges_and_its_rounding_is_bounded(
    given: Usage, changes: dict[str, Any]
) -> None:
    agreed = terms(**changes)
    found = make_bill(given, agreed, NOVEMBER, {})
    parts = [Fraction(found.usage), *(Fraction(charge.amount) for charge in found.charges)]
    assert Fraction(found.total) == sum(parts)
    assert Fraction(found.usage) == sum(Fraction(u.amount) for u in given.used) * Fraction(found.fx_rate)  # fmt: skip
    unit = Fraction(1, 10 ** agreed.digits(found.currency))
    assert (Fraction(found.total) / unit).denominator == 1
    rounded = [Fraction(c.amount) for c in found.charges if c.kind is ChargeKind.ROUNDING]
    rounding = sum(rounded, Fraction(0))
    if agreed.rounding.mode == "down":
        assert abs(rounding) < unit
        assert rounding * (Fraction(found.total) - rounding) <= 0
    else:
        assert abs(rounding) <= unit / 2
    spent = {c.id: -c.amount for c in found.charges if c.id}
    assert all(0 < spent[c.id] <= c.amount for c in agreed.credits if c.id in spent)
    if agreed.minimum:
        assert Fraction(found.total) - rounding + sum(map(Fraction, spent.values())) >= agreed.minimum  # fmt: skip
    assert Terms.parse(agreed.canonical) == agreed
    assert json.loads(found.document())["contract"] == agreed.digest.hex()


@given(found=tiers, amount=st.decimals("-1000", "200000", places=9))
def test_graduated_discounts_take_each_part_at_its_own_rate(
    found: list[dict[str, str]], amount: Decimal
):
    """By the definition: the marginal rate at each bound, over the part between it and the next."""
    steps = [Tier.model_validate(tier) for tier in found]
    bounds = [Fraction(tier.above) for tier in steps]
    expected = Fraction(0)
    for at, tier in enumerate(steps):
        upper = min(Fraction(amount), bounds[at + 1]) if at + 1 < len(steps) else Fraction(amount)
        expected += max(Fraction(0), upper - bounds[at]) * Fraction(tier.percent) / 100
    less = graduated(amount, steps)
    assert Fraction(less) == expected
    assert 0 <= less <= max(amount, Decimal(0))
