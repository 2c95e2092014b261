"""Journals for a general ledger (GL) as CSV: one row for each posting, on the customer's accounts. Pure but for the writer.

The customer maps our accounts to theirs in a CSV file with the columns `account`, `gl_account` and `cost_centre`. An
account that ends in `*` stands for every account that begins so; the longest one that fits counts.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.exports.table import Column, Dataset, Kind, Row
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import csv_lines, publish
from shared.codec.money import check_currency, exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.reading import read_bounded
from shared.runtime.replacing import Output

JOURNAL: Final = Dataset(
    "Journal",
    "1",
    (
        Column("Date", Kind.TEXT),
        Column("JournalId", Kind.TEXT),
        Column("Account", Kind.TEXT),
        Column("CostCentre", Kind.TEXT, nullable=True),
        Column("Debit", Kind.COST, nullable=True),
        Column("Credit", Kind.COST, nullable=True),
        Column("Currency", Kind.TEXT),
        Column("Memo", Kind.TEXT, nullable=True),
    ),
)
MAX_MAPPING: Final = 2**20
"""Bytes of a mapping file."""
HEADER: Final = ["account", "gl_account", "cost_centre"]


class Posting(NamedTuple):
    """One posting: a positive amount is a debit, a negative one a credit."""

    journal: str
    day: date
    account: str
    amount: Decimal
    currency: str
    memo: str


Raw = Posting | tuple[str, date, str, Decimal, str, str]
"""A posting, or its fields."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Our accounts to (GL account, cost centre)."""

    exact: Mapping[str, tuple[str, str]]
    prefixes: Mapping[str, tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a mapping file; MALFORMED, with the line, for one that is no such file, CONFIGURATION when it cannot be read."""
        return cls.parse(read_bounded(path, MAX_MAPPING))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a mapping file: UTF-8 CSV, with or without a byte order mark."""
        if len(data) > MAX_MAPPING:
            raise _malformed(f"it is longer than {MAX_MAPPING} bytes")
        try:
            rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _malformed(str(error)) from error
        if not rows or rows[0] != HEADER:
            raise _malformed(f"its first line is not {','.join(HEADER)}")
        found: dict[str, tuple[str, str]] = {}
        for number, row in enumerate(rows[1:], start=2):
            if not row:
                continue
            if (
                len(row) != len(HEADER)
                or not row[0]
                or not row[1]
                or not "".join(row).isprintable()
            ):
                raise _malformed(f"row {number} is not an account, a GL account and a cost centre")
            if row[0] in found:
                raise _malformed(f"row {number} maps {row[0]} a second time")
            found[row[0]] = row[1], row[2]
        prefixes = {name[:-1]: value for name, value in found.items() if name.endswith("*")}
        exact = {name: value for name, value in found.items() if not name.endswith("*")}
        return cls(MappingProxyType(exact), MappingProxyType(prefixes))

    def of(self, account: str) -> tuple[str, str]:
        """Return (GL account, cost centre); NOT_FOUND for an account that nothing maps."""
        if account in self.exact:
            return self.exact[account]
        fitting = [prefix for prefix in self.prefixes if account.startswith(prefix)]
        if not fitting:
            raise CounterfoilError(
                Code.NOT_FOUND,
                f"the account {account[:80]!r} is not in the mapping of accounts",
                remedy="Add a line for it, or one that ends in *.",
            )
        return self.prefixes[max(fitting, key=len)]


def write_journal(
    path: Path,
    postings: Iterable[Raw],
    accounts: Accounts,
    about: About,
    key: Signer | None = None,
) -> Manifest:
    """Write postings, those of one journal one after another; the control totals are each currency's debit and credit.

    Errors: as in `publish`; NOT_FOUND for an account without a mapping; INVALID_ARGUMENT for a journal that does not
    balance in each currency, comes twice, or has two days.
    """

    def fill(out: Output, totals: Totals) -> None:
        for lines in csv_lines(JOURNAL, journal_rows(postings, accounts, totals), Totals()):
            out.write(lines.encode())

    return publish(path, Format.GL_CSV, (JOURNAL.name, JOURNAL.version), about, fill, key)


def journal_rows(postings: Iterable[Raw], accounts: Accounts, totals: Totals) -> Iterator[Row]:
    """Yield a row for each posting that is not zero, journal by journal, after each was checked; errors as in `write_journal`."""
    seen: set[str] = set()
    for journal, group in groupby(map(Posting._make, postings), key=attrgetter("journal")):
        lines = list(group)
        if journal in seen:
            raise _unbalanced(journal, "comes in two pieces")
        seen.add(journal)
        _check(journal, lines)
        for line in lines:
            if line.amount:
                yield _row(line, accounts, totals)


def _row(line: Posting, accounts: Accounts, totals: Totals) -> Row:
    account, centre = accounts.of(line.account)
    side = "Debit" if line.amount > 0 else "Credit"
    size = line.amount.copy_abs()
    totals.add(line.currency, side, size)
    totals.rows += 1
    return {
        "Date": line.day.isoformat(),
        "JournalId": line.journal,
        "Account": account,
        "CostCentre": centre or None,
        side: size,
        "Currency": line.currency,
        "Memo": line.memo or None,
    }


def _check(journal: str, lines: list[Posting]) -> None:
    if len({line.day for line in lines}) > 1:
        raise _unbalanced(journal, "has postings of two days")
    for currency in {check_currency(line.currency) for line in lines}:
        rest = exact_sum(line.amount for line in lines if line.currency == currency)
        if rest:
            raise _unbalanced(journal, f"does not balance: {rest} {currency} remain")


def _unbalanced(journal: str, what: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, f"journal {journal[:80]!r} {what}")


def _malformed(what: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the mapping of accounts is not usable: {what}",
        remedy=f"Write CSV with the header {','.join(HEADER)}.",
    )
