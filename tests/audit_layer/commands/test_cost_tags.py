"""`counterfoil cost export --tags` and `cost teams`: tags are read on this machine, and the sums are those of the books."""

import base64
import csv
import json
from decimal import Decimal
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.commands.cost_tags import book_of, combinations
from audit_layer.commands.cost_teams import NO_TAGS, UNRESOLVED, by_tag
from audit_layer.costs.exports.manifest import verify
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import load_or_create_ed25519
from shared.statements.tag_book import TagBook
from shared.statements.tags import TagKey
from tests.audit_layer.api import statements as made
from tests.audit_layer.commands.test_cost import Command, command
from tests.audit_layer.costs.test_books import Scene
from tests.audit_layer.costs.test_service import AFTER, FIRST, Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "command", "world"]

KEY = TagKey(bytes(range(32)))
SEARCH, ADS = {"team": "search", "project": "x"}, {"team": "ads"}
DAYS = ("--from", str(FIRST), "--to", str(AFTER))
EACH = Decimal("0.019")


def blind(tags, tenant="acme"):
    return KEY.blind(tenant, tags)


@pytest.fixture
def book(tmp_path: Path) -> str:
    path = tmp_path / "tags.json"
    path.write_bytes(TagBook.of(KEY, "acme", (SEARCH, ADS)).encode())
    return str(path)


@pytest.fixture
def month(books: Books, command: Command) -> Command:
    """Two orders of search, one of ads, one with tags that nobody knows, one without; and a copied value at bolt."""
    for centre in (blind(SEARCH), blind(SEARCH), blind(ADS), bytes(32), None):
        books.receipt(cost_centre=centre)
    books.receipt("bolt", cost_centre=blind(ADS))
    command.json("rate")
    return command


def test_an_export_says_whose_each_charge_is(month: Command, tmp_path: Path, book: str):
    for name in ("focus-1.2-csv", "focus-1.4-parquet"):
        plain, path = tmp_path / "plain", tmp_path / "tagged"
        before = month.json("export", "--format", name, "--out", str(plain), *DAYS)
        told = month.json("export", "--format", name, "--out", str(path), "--tags", book, *DAYS)
        assert (told["rows"], told["totals"]) == (before["rows"], before["totals"]) == (12, told["totals"])  # fmt: skip
        assert told["sha256"] == sha256(path.read_bytes()).hexdigest() != before["sha256"]
        if name.endswith("csv"):
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        else:
            rows = pq.read_table(BytesIO(path.read_bytes())).to_pylist()
        teams = [json.loads(row["Tags"])["team"] if row["Tags"] else None for row in rows]
        assert sorted(teams, key=str) == [None] * 6 + ["ads"] * 2 + ["search"] * 4
        assert all(not row["Tags"] for row in rows if row["BillingAccountId"] == "bolt")


def test_the_manifest_is_of_the_file_with_its_tags(month: Command, tmp_path: Path, book: str):
    key = load_or_create_ed25519(tmp_path / "sign.pem")
    for name in ("focus-1.2-csv", "focus-1.2-parquet", "xlsx"):
        path = tmp_path / f"signed.{name.rpartition('-')[2]}"
        signing = ("--sign-key", str(tmp_path / "sign.pem"), "--tags", book)
        told = month.json("export", "--format", name, "--out", str(path), *signing, *DAYS)
        found = verify(path, key.public_key())
        assert (found.sha256, found.file, found.rows) == (told["sha256"], path.name, told["rows"])
        assert found.format == name


def test_a_workbook_is_made_here_and_names_the_teams(month: Command, tmp_path: Path, book: str):
    path = tmp_path / "month.xlsx"
    plain = month.json("export", "--format", "xlsx", "--out", str(path), *DAYS)
    assert b"search" not in b"".join(ZipFile(path).read(name) for name in ZipFile(path).namelist())
    told = month.json("export", "--format", "xlsx", "--out", str(path), "--tags", book, *DAYS)
    assert (told["rows"], told["totals"]) == (plain["rows"], plain["totals"])
    assert b"search" in b"".join(ZipFile(path).read(name) for name in ZipFile(path).namelist())


def test_no_tag_and_no_key_is_ever_sent(month: Command, tmp_path: Path, book: str):
    sent: list[str] = []
    answer = month.answer

    def watched(*given):
        sent.append(repr(given))
        return answer(*given)

    month.answer = watched  # type: ignore[method-assign]
    path = tmp_path / "a.xlsx"
    month.json("export", "--format", "xlsx", "--out", str(path), "--tags", book, *DAYS)
    month.json("teams", "--tags", book, *DAYS)
    assert len(sent) == 2
    assert not any(word in each for each in sent for word in ("search", "ads", "team", "project"))


def test_a_file_that_is_not_the_described_one_replaces_nothing(
    month: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], book: str
):
    answer = month.answer

    def forged(*given):
        found = answer(*given)
        found._content = found.content[:-1] + bytes([found.content[-1] ^ 1])
        return found

    month.answer = forged  # type: ignore[method-assign]
    path = tmp_path / "a"
    path.write_text("last month")
    for name in ("focus-1.2-csv", "focus-1.2-parquet", "xlsx"):
        for more in ((), ("--tags", book)):
            code, _, _ = month.run(capsys, "export", "--format", name, "--out", str(path), *more, *DAYS)  # fmt: skip
            assert code in {3, 6}, (name, more)
            assert path.read_text() == "last month"


def test_a_server_that_states_other_totals_is_not_believed(
    month: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], book: str
):
    answer = month.answer

    def forged(*given):
        found = answer(*given)
        told = json.loads(base64.b64decode(found.headers["counterfoil-manifest"]))
        told["totals"]["EUR"]["Usage"] = "1.0"
        found.headers["counterfoil-manifest"] = base64.b64encode(json.dumps(told).encode()).decode()
        return found

    month.answer = forged  # type: ignore[method-assign]
    path = tmp_path / "a"
    path.write_text("last month")
    for name in ("focus-1.2-csv", "focus-1.2-parquet", "xlsx"):
        asked = ("export", "--format", name, "--out", str(path), "--tags", book, *DAYS)
        code, _, told = month.run(capsys, *asked)
        assert (code, "do not come to" in told) == (6, True)
        assert path.read_text() == "last month"


def test_an_empty_file_and_a_format_without_tags(
    books: Books, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], book: str
):
    path = tmp_path / "a"
    for name in (
        "focus-1.2-csv",
        "focus-1.4-csv",
        "focus-1.2-parquet",
        "focus-1.4-parquet",
        "xlsx",
    ):
        asked = ("export", "--format", name, "--out", str(path), "--tags", book, *DAYS)
        assert command.run(capsys, *asked)[0] == 4
        assert command.json(*asked, "--allow-empty")["rows"] == 0
        path.unlink()
    for name in ("gl-csv", "focus-1.4-billing-period-csv"):
        code, _, told = command.run(capsys, "export", "--format", name, "--out", str(path), "--tags", book, *DAYS)  # fmt: skip
        assert (code, "nothing about tags" in told) == (2, True)
    assert not path.exists()


def test_teams_are_summed_exactly_and_the_rest_is_told_apart(month: Command, book: str):
    rows = month.json("teams", "--tags", book, *DAYS)["rows"]
    found = {(row["tenant"], row["value"] or row["state"]): row for row in rows}
    assert {key: (row["receipts"], row["tokens"], row["amount"]) for key, row in found.items()} == {
        ("acme", "search"): (2, 24, "0.038"), ("acme", "ads"): (1, 12, "0.019"), ("acme", UNRESOLVED): (1, 12, "0.019"),
        ("acme", NO_TAGS): (1, 12, "0.019"), ("bolt", UNRESOLVED): (1, 12, "0.019"),
    }  # fmt: skip
    (number,) = (row["id"] for row in month.json("period", "list") if row["tenant"] == "acme")
    of_period = month.json("teams", "--tags", book, "--period", str(number))["rows"]
    assert [row["amount"] for row in of_period if row["value"]] == ["0.019", "0.038"]
    whole = [Decimal(row["amount"]) for row in of_period]
    assert exact_sum(whole) == Decimal(month.json("bill", str(number))["total"])
    assert "search" in month.text("teams", "--tags", book, *DAYS)
    by = month.json("teams", "--tags", book, "--by", "project", "--tenant", "acme", *DAYS)["rows"]
    assert {row["value"] or row["state"]: row["receipts"] for row in by} == {
        "x": 2, "(no project)": 1, UNRESOLVED: 1, NO_TAGS: 1,
    }  # fmt: skip


def test_what_a_verdict_holds_is_told_and_what_it_takes_back_is_not_spent(
    books: Books, command: Command, book: str
):
    held = books.receipt(cost_centre=blind(ADS))
    gone = books.receipt(cost_centre=blind(ADS))
    books.receipt(cost_centre=blind(ADS))
    books.world.trail.add_party("second", "worker", made.public("second"))
    Scene(books, []).convict(gone)
    Scene(books, []).verdict(held, "FAIL")
    command.json("rate")
    (row,) = command.json("teams", "--tags", book, *DAYS)["rows"]
    assert (row["receipts"], row["amount"], row["held"]) == (2, "0.038", "0.019")
    assert row["models"] == {made.MODEL.hex()[:16]: "0.038"}


def test_the_tag_key_reads_what_candidates_blind_to(month: Command, tmp_path: Path):
    key = tmp_path / "tags.key"
    key.write_text(f"{KEY.raw.hex()}\n")
    key.chmod(0o600)
    asked = (
        "--tag-key",
        str(key),
        "--tag",
        "team=search",
        "--tag",
        "team=ads",
        "--tag",
        "project=x",
    )
    rows = month.json("teams", *asked, "--tenant", "acme", *DAYS)["rows"]
    assert [(row["value"], row["receipts"]) for row in rows if row["value"]] == [("ads", 1), ("search", 2)]  # fmt: skip


def test_combinations_are_every_set_of_one_value_a_name_or_none():
    assert combinations(["a=1", "a=2", "b=="]) == [
        {"b": "="}, {"a": "1"}, {"a": "1", "b": "="}, {"a": "2"}, {"a": "2", "b": "="},
    ]  # fmt: skip
    for wrong in (["a"], [f"n{name}={value}" for name in range(9) for value in range(9)]):
        with pytest.raises(CounterfoilError) as caught:
            combinations(wrong)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_options_that_do_not_belong_together_are_refused(tmp_path: Path, book: str):
    path = Path(book)
    for given_ in (
        (path, None, (), "bolt"), (path, path, (), "acme"), (path, None, ("a=b",), None), (None, path, (), "acme"),
        (None, None, ("a=b",), "acme"), (None, path, ("a=b",), None),
    ):  # fmt: skip
        with pytest.raises(CounterfoilError) as caught:
            book_of(*given_)
        assert caught.value.code is Code.INVALID_ARGUMENT
    assert book_of(None, None, (), None) is None


_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from(("acme", "bolt")),
            "cost_centre": st.sampled_from((None, blind(SEARCH).hex(), blind(ADS).hex(), "0" * 64)),
            "model_root": st.sampled_from(("a" * 64, "b" * 64)),
            "model_name": st.sampled_from((None, "fox")),
            "currency": st.sampled_from(("EUR", "USD")),
            "receipts": st.integers(-5, 5),
            "tokens": st.integers(-500, 500),
            "amount": st.decimals(-9, 9, places=24).map("{:f}".format),
            "held": st.just("0"),
        }
    )
)


@given(_ROWS)
def test_grouping_loses_nothing(rows):
    found = by_tag(rows, TagBook.of(KEY, "acme", (SEARCH, ADS)), "team")
    for currency in ("EUR", "USD"):
        spends = [one for one in found if one.currency == currency]
        own = [row for row in rows if row["currency"] == currency]
        amounts = [amount for one in spends for amount in one.amounts]
        assert exact_sum(amounts) == exact_sum(Decimal(row["amount"]) for row in own)
        assert sum(one.receipts for one in spends) == sum(row["receipts"] for row in own)
    assert all(one.value is None for one in found if one.tenant == "bolt")
