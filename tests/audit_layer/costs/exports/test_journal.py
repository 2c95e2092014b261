"""The general ledger's journal balances to the last digit, on the customer's accounts, or is not written."""

import csv
from collections import defaultdict
from datetime import date
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.exports.journal import Accounts, Posting, write_journal
from audit_layer.costs.exports.manifest import verify
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
DAY = date(2026, 11, 27)
MAPPING = b"""account,gl_account,cost_centre
expense:*,6815,CC-9
expense:acme,6810,CC-1
payable:*,1600,
"""
ACCOUNTS = Accounts.parse(MAPPING)


def pair(journal="1", amount="12.345678", currency="EUR", memo="usage", day=DAY):
    return [
        Posting(journal, day, "expense:acme", Decimal(amount), currency, memo),
        Posting(journal, day, "payable:alpha", -Decimal(amount), currency, memo),
    ]


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_posting_is_a_row_on_the_customers_account(tmp_path):
    path = tmp_path / "gl.csv"
    manifest = write_journal(path, map(tuple, pair(memo="=usage")), ACCOUNTS, ABOUT, KEY)
    common = {"Date": "2026-11-27", "JournalId": "1", "Currency": "EUR", "Memo": "'=usage"}
    assert read(path) == [
        {**common, "Account": "6810", "CostCentre": "CC-1", "Debit": "12.345678", "Credit": ""},
        {**common, "Account": "1600", "CostCentre": "", "Debit": "", "Credit": "12.345678"},
    ]
    assert manifest == verify(path, KEY.public_key())
    assert manifest.totals == {"EUR": {"Credit": "12.345678", "Debit": "12.345678"}}
    assert manifest.rows == 2


_AMOUNT = st.decimals(-1000, 1000, places=12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    st.lists(
        st.tuples(st.lists(_AMOUNT, min_size=1, max_size=5), st.sampled_from(("EUR", "USD"))),
        max_size=5,
    )
)
def test_every_journal_and_the_file_balance_in_each_currency(tmp_path, journals):
    postings = []
    for number, (amounts, currency) in enumerate(journals):
        postings += [
            Posting(str(number), DAY, "expense:acme", amount, currency, "") for amount in amounts
        ]
        postings.append(
            Posting(str(number), DAY, "payable:alpha", -sum(amounts, Decimal(0)), currency, "")
        )
    manifest = write_journal(tmp_path / "gl.csv", postings, ACCOUNTS, ABOUT)
    sums = defaultdict(Decimal)
    for row in read(tmp_path / "gl.csv"):
        assert bool(row["Debit"]) != bool(row["Credit"])
        assert Decimal(row["Debit"] or row["Credit"]) > 0
        sums[row["JournalId"], row["Currency"]] += Decimal(row["Debit"] or 0) - Decimal(
            row["Credit"] or 0
        )
    assert not any(sums.values())
    assert all(sides["Debit"] == sides["Credit"] for sides in manifest.totals.values())
    assert manifest.rows == sum(1 for posting in postings if posting.amount)


EUR, USD = pair("1"), pair("1", currency="USD")
UNBALANCED = {
    "does not balance: 0.000001 EUR": [EUR[0], EUR[1]._replace(amount=Decimal("-12.345677"))],
    "remain": [EUR[0], USD[1]],
    "two pieces": [*pair("1"), *pair("2"), *pair("1")],
    "two days": [EUR[0], EUR[1]._replace(day=date(2026, 11, 28))],
    "is not a currency": [posting._replace(currency="e") for posting in EUR],
}


@pytest.mark.parametrize("said", UNBALANCED)
def test_a_journal_that_is_none_is_refused_and_nothing_is_written(tmp_path, said):
    with pytest.raises(CounterfoilError, match=said) as caught:
        write_journal(tmp_path / "gl.csv", [*pair("0"), *UNBALANCED[said]], ACCOUNTS, ABOUT, KEY)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert list(tmp_path.iterdir()) == []


def test_an_account_without_a_mapping_is_named_and_the_longest_prefix_counts(tmp_path):
    assert ACCOUNTS.of("expense:acme") == ("6810", "CC-1")
    assert ACCOUNTS.of("expense:acme-2") == ("6815", "CC-9")
    longer = Accounts.parse(MAPPING + b"expense:ac*,6820,\n*,9999,\n")
    assert longer.of("expense:ac-3") == ("6820", "")
    assert longer.of("stake:alpha") == ("9999", "")
    postings = [EUR[0], EUR[1]._replace(account="stake:alpha")]
    with pytest.raises(CounterfoilError, match="stake:alpha") as caught:
        write_journal(tmp_path / "gl.csv", postings, ACCOUNTS, ABOUT)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "first line"), (b"account,gl\n", "first line"), (b"\xff\xfe", "utf-8"), (MAPPING + b"x,1\n", "row 5"),
        (MAPPING + b",1,2\n", "row 5"), (MAPPING + b"x,,2\n", "row 5"), (MAPPING + b"x,1\x1b,2\n", "row 5"),
        (MAPPING + b"payable:*,1,2\n", "second time"), (MAPPING + b'x,"1,2\n', "unexpected end"), (b"x" * (2**20 + 1), "longer"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_none_is_refused_with_its_row(data, said):
    with pytest.raises(CounterfoilError, match=said) as caught:
        Accounts.parse(data)
    assert caught.value.code is Code.MALFORMED


def test_a_mapping_is_read_from_a_file_also_as_a_spreadsheet_saves_it(tmp_path):
    path = tmp_path / "accounts.csv"
    path.write_bytes(b"\xef\xbb\xbf" + MAPPING.replace(b"\n", b"\r\n"))
    assert Accounts.read(path) == ACCOUNTS
    with pytest.raises(CounterfoilError) as caught:
        Accounts.read(tmp_path / "none.csv")
    assert caught.value.code is Code.CONFIGURATION
