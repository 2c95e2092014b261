"""Draws checked over the query API: what each token can show, and that faults are named."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from audit_layer.commands import query
from audit_layer.commands.epochs import check_epochs
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, parse_statement
from shared.verification.draw_check import DAY_MS, Wrong
from shared.verification.trust import Role, Trust
from tests.shared.verification.epochs import DEADLINE, KEYS, Book, Spec
from tests.vectors.samples import ORIGIN, octets

LATE = DEADLINE + DAY_MS + 1
ALL = tuple(range(1, 14))


class FakeApi:
    """A double of the query API over a book; `allowed` are the paths that the token permits."""

    def __init__(self, book: Book, *, allowed: Mapping[str, bool] | None = None) -> None:
        self.book = book
        self.allowed = dict(allowed or {})
        self.erased: set[bytes] = set()
        self.hidden: set[bytes] = set()
        """Receipts that the token may not see."""
        self.unjudged: set[bytes] = set()
        self.earlier: list[dict[str, Any]] = []
        """Verdicts from before the epochs."""
        self.page = 7
        """Maximum number of items in an answer."""

    def __call__(self, path: str, **given: Any) -> Any:
        if not self.allowed.get(path, True):
            raise CounterfoilError(Code.FORBIDDEN, "a token of this role does not permit this")
        if path == "/v1/status":
            return {"origin": ORIGIN}
        if path.startswith("/v1/statements/"):
            return {"erased": bytes.fromhex(path[-64:]) in self.erased}
        items = {
            "/v1/public/statements": self._public,
            "/v1/receipts": self._receipts,
            "/v1/disclosures": self._disclosures,
            "/v1/verdicts": self._verdicts,
        }[path]()
        found = [item for item in items if item["log_index"] > given["after"]]
        size = min(self.page, given["limit"])
        shown = found[:size]
        following = shown[-1]["log_index"] if len(found) > size else None
        return {"items": shown, "next": following}

    def _public(self) -> list[dict[str, Any]]:
        return [
            {"log_index": index, "type": parse_statement(raw).type, "entry": entry_of(raw).hex(),
             "raw": base64.b64encode(raw).decode()}
            for index, raw in self.book.statements
        ]  # fmt: skip

    def _receipts(self) -> list[dict[str, Any]]:
        return [
            {
                "log_index": r.index,
                "entry": r.entry.hex(),
                "bundle": r.bundle.hex(),
                "operator": f"op-{r.bundle.hex()[:8]}",
                "node": "node",
            }
            for r in self.book.receipts
            if r.entry not in self.hidden
        ]

    def _disclosures(self) -> list[dict[str, Any]]:
        fields = ("receipt", "index", "draw", "reason", "recipient", "deadline")
        requests = [
            {name: _plain(getattr(request, name)) for name in fields}
            for request in self.book.requests
        ]
        release = {"log_index": 9_999, "type": "disclosure-release", "payload": {}}
        return [
            release,
            *(
                {"log_index": 10_000 + at, "type": "disclosure-request", "payload": said}
                for at, said in enumerate(requests)
            ),
        ]

    def _verdicts(self) -> list[dict[str, Any]]:
        judged = [r.receipt for r in self.book.requests if r.receipt not in self.unjudged]
        passed = [_verdict(20_000 + at, receipt, "op") for at, receipt in enumerate(judged)]
        return [*self.earlier, *passed]


def _verdict(index: int, receipt: bytes, operator: str, **more: Any) -> dict[str, Any]:
    given = {
        "entry": octets(f"verdict {index}").hex(),
        "log_index": index,
        "receipt": receipt.hex(),
        "worker": "worker",
        "outcome": "PASS",
        "reason": "exact",
        "confirms": None,
        "asked": False,
        "at": 1,
        "tenant": "acme",
        "operator": operator,
        "node": "node",
    }
    return {**given, **more}


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def book(**spoiled: Any) -> Book:
    return Book(Spec(), Spec(**spoiled), Spec())


def wrong(api: FakeApi, **options: Any) -> list[tuple[int, Wrong]]:
    given = {"after": -1, "origin": None, "trust": KEYS, "now": LATE, **options}
    return [
        (found.record.epoch, fault.wrong)
        for found in check_epochs(api, **given)
        for fault in found.checked.faults
    ]


def test_an_auditors_token_takes_every_step_and_honest_draws_pass():
    found = check_epochs(FakeApi(book()), after=-1, origin=None, trust=KEYS, now=LATE)
    assert [(item.checked.steps, item.receipts, item.checked.faults) for item in found] == [
        (ALL, 8, ())
    ] * 3


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"draw": lambda d: replace(d, drawn=d.drawn[1:])}, {Wrong.MISSING, Wrong.FLOOR}),
        ({"draw": lambda d: replace(d, seed=octets("chosen"))}, {Wrong.SEED}),
        ({"seal": lambda s: replace(s, nodes={})}, {Wrong.NODES}),
    ],
    ids=["left out", "seed", "nodes"],
)
def test_a_wrong_draw_is_named_with_its_epoch(spoiled, expected):
    found = wrong(FakeApi(book(**spoiled)))
    assert {epoch for epoch, _ in found} == {1}
    assert expected & {kind for _, kind in found}


def test_a_missing_request_and_a_missing_verdict_are_named_and_an_erased_receipt_needs_none():
    api = FakeApi(book())
    gone, other = api.book.requests.pop(0), api.book.requests[0]
    assert wrong(api) == [(0, Wrong.REQUEST)]
    api.book.requests.append(gone)
    api.unjudged = {other.receipt}
    assert wrong(api) == [(0, Wrong.OUTCOME)]
    api.erased = {other.receipt}
    assert wrong(api) == []


def test_a_verdict_for_which_a_tenant_asked_does_not_stand_for_the_draws():
    api = FakeApi(book())
    drawn = api.book.requests[0].receipt
    api.unjudged = {drawn}
    api.earlier = [_verdict(19_000, drawn, "op", asked=True)]
    assert wrong(api) == [(0, Wrong.OUTCOME)]
    api.earlier = [_verdict(19_000, drawn, "op")]
    assert wrong(api) == []


def test_a_tenant_checks_what_is_public_and_its_own_receipts():
    honest = book()
    due = next(i.index for i in honest.rules[1] if i.reason.value == "draw")
    left_out = book(draw=lambda d: replace(d, drawn=tuple(i for i in d.drawn if i != due)))
    api = FakeApi(left_out, allowed={"/v1/status": False})
    (_, middle, _) = check_epochs(api, after=-1, origin=None, trust=Trust(), now=LATE)
    assert middle.checked.steps == (*range(1, 8), 10, 11, 12)
    assert wrong(api) == [(1, Wrong.MISSING)]
    api.hidden = {r.entry for r in left_out.receipts if r.index == due}
    assert wrong(api) == []


def test_a_token_without_disclosures_skips_their_steps():
    api = FakeApi(book(), allowed={"/v1/status": False, "/v1/disclosures": False})
    found = check_epochs(api, after=-1, origin=ORIGIN, trust=KEYS, now=LATE)
    assert {item.checked.steps for item in found} == {(*range(1, 8), 10)}


def test_a_key_that_did_not_sign_and_a_log_of_another_name_are_reported():
    assert {k for _, k in wrong(FakeApi(book()), trust=Trust.of(authority=octets("other")))} == {
        Wrong.ORDER
    }
    assert Wrong.SEED in {k for _, k in wrong(FakeApi(book()), origin="other/log")}


@pytest.mark.parametrize("answer", [{}, {"items": [{}], "next": None}, {"items": 7, "next": None}])
def test_an_answer_that_is_not_one_is_malformed(answer):
    with pytest.raises(CounterfoilError) as caught:
        check_epochs(lambda _path, **_: answer, after=-1, origin=None, trust=Trust(), now=LATE)
    assert caught.value.code is Code.MALFORMED


def test_a_list_that_does_not_advance_is_refused():
    with pytest.raises(CounterfoilError) as caught:
        check_epochs(
            lambda _path, **_: {"items": [], "next": 5},
            after=-1,
            origin=None,
            trust=Trust(),
            now=LATE,
        )
    assert caught.value.code is Code.MALFORMED


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Options that reach a double instead of a server."""
    for name in ("token", "ca"):
        (tmp_path / name).write_text("x")
    apis: list[FakeApi] = []
    monkeypatch.setattr(
        query, "ask", lambda _url, _token, _ca, path, **given: apis[-1](path, **given)
    )
    at = [
        "--url",
        "https://audit",
        "--token-file",
        str(tmp_path / "token"),
        "--ca",
        str(tmp_path / "ca"),
    ]

    def given(made: Book, *more: str) -> list[str]:
        apis.append(FakeApi(made))
        return [*at, *more]

    return given


def test_the_command_ends_with_0_when_all_follows_the_rule_and_with_1_when_not(arguments):
    (signer,) = KEYS.keys(Role.AUTHORITY)
    key = signer.hex()
    good = arguments(book(), "--check", "--authority-key", key, "--json")
    assert run(query.epochs, good) == 0
    bad = arguments(book(draw=lambda d: replace(d, seed=octets("chosen"))), "--check", "--json")
    assert run(query.epochs, bad) == 1
    told = json.loads(CliRunner().invoke(query.epochs, bad).stdout)
    assert told["wrong"] == 1
    (fault,) = [f for f in told["epochs"][1]["faults"] if f["wrong"] == "seed"]
    assert fault["step"] == 6
    assert told["epochs"][0]["faults"] == []


def test_the_table_names_step_and_fault(arguments):
    bad = arguments(book(draw=lambda d: replace(d, whole=True)), "--check")
    text = CliRunner().invoke(query.epochs, bad, env={"COLUMNS": "200"}).stdout
    assert "1 of 3 epochs wrong" in text
    assert "(5) whole" in text


def test_keys_without_check_are_refused(arguments):
    assert run(query.epochs, arguments(book(), "--origin", "x")) == 2
    assert run(query.epochs, arguments(book(), "--check", "--authority-key", "junk")) == 2


def test_strictness_is_checked_against_the_verdicts_before_the_seal():
    """A node with an open FAIL from before the first epoch must be strict in every epoch after it."""
    strict = Spec(rate_ppm=0, strict_floor=3, strict=(0,))
    api = FakeApi(Book(strict, strict))
    fail = {"outcome": "FAIL", "reason": "tokens"}
    suspect = f"op-{octets('bundle 0').hex()[:8]}"
    api.earlier = [_verdict(0, octets("old receipt"), suspect, **fail)]
    assert wrong(api) == []
    api.earlier = [_verdict(0, octets("old receipt"), "another", **fail)]
    assert set(wrong(api)) == {(0, Wrong.STANDING), (1, Wrong.STANDING)}
