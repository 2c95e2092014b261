"""`counterfoil cost prove`: a proof is made through the API, and checked with nothing at hand but the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_layer.commands import cost_proofs
from audit_layer.commands.cost import cost
from audit_layer.costs.proving import gathering
from shared.runtime.cli import run
from shared.translog.policy_file import PolicyFile
from tests.audit_layer.api import statements as made
from tests.audit_layer.commands.test_cost import Command, command
from tests.audit_layer.costs.log_proofs import POLICY
from tests.audit_layer.costs.test_service import Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "command", "world"]

Check = Callable[..., str]
ODD = "7/a b?c#d%"
"""A line's number that an address must not be confused by."""
PINS = [
    word for name in ("alpha", "acme") for word in ("--signer", f"{name}={made.public(name).hex()}")
]


@pytest.fixture
def number(books: Books) -> int:
    """A stored invoice that bills 30 output tokens for three receipts with 21."""
    for _ in range(3):
        books.receipt()
    books.costs.rate_new()
    return books.take(invoice(line("output", 30, "2", line_id=ODD)))


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check a file without server, token or variables."""
    for name in ("AUDIT_URL", "FINANCE_TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"COUNTERFOIL_{name}", raising=False)

    def checked(file: Path, *options: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run(cost, ["prove", "--verify", str(file), *options]) == code
        return capsys.readouterr().out

    return checked


def test_a_line_is_proved_and_the_proof_verifies_alone_and_by_own_pins(
    command: Command, check: Check, number: int, tmp_path: Path
):
    out, own = tmp_path / "line.json", tmp_path / "log.policy"
    own.write_text(PolicyFile.of(POLICY).encode(), "utf-8")
    told = command.json("prove", str(number), ODD, "--out", str(out))
    assert (told["receipts"], told["proven"], told["difference"]) == (3, "0.042", "0.018")
    assert told["files"] == [str(out)]
    assert "only its maker says" in check(out)
    text = check(out, "--policy", str(own), *PINS)
    assert "21 output × 2 / 1000 = 0.042 EUR" in text
    assert "your own policy" in text
    assert text.rstrip().endswith("verified")
    found = json.loads(check(out, "--json"))
    assert found["verified"] is True
    assert found["facts"]["figures"]["difference"] == "0.018"
    assert [step["number"] for step in found["steps"]] == list(range(1, 14))


def test_a_proof_that_was_changed_fails_at_its_step(
    command: Command, check: Check, number: int, tmp_path: Path
):
    out = tmp_path / "line.json"
    assert "3 receipts prove 0.042 of 0.06 EUR" in command.text(
        "prove", str(number), ODD, "--out", str(out)
    )
    values = json.loads(out.read_text("utf-8"))
    values["receipts"].pop()
    out.write_text(json.dumps(values), "utf-8")
    found = json.loads(check(out, "--json", code=3))
    assert found["verified"] is False
    assert found["facts"] == {}
    assert found["steps"][-1]["number"] == 12
    assert "NOT verified" in check(out, code=3)
    stranger = ["--signer", f"alpha={made.public('beta').hex()}"]
    assert "✗ (3)" in check(out, *stranger, code=3)


def test_what_is_no_proof_is_told_from_one_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "x.json"
    file.write_bytes(b"[" * 100_000)
    assert run(cost, ["prove", "--verify", str(file)]) == 3
    assert run(cost, ["prove", "--verify", str(tmp_path / "none")]) == 4
    assert "cost prove" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["7"],
        ["7", "a"],
        ["7", "a", "--out", "x"],
        ["7", "a", "--out", "x", "--policy", "y"],
        ["7", "a", "--verify", "x"],
        ["--verify", "x", "--out", "y"],
        ["--verify", "x", "--signer", "alpha"],
        ["0", "a", "--out", "x"],
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    given: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    for name in ("AUDIT_URL", "FINANCE_TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"COUNTERFOIL_{name}", raising=False)
    assert run(cost, ["prove", *given]) == 2
    assert not (tmp_path / "x").exists()


def test_no_file_is_written_for_a_line_that_is_not_there(
    command: Command, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "line.json"
    code, _, told = command.run(capsys, "prove", str(number), "nothing", "--out", str(out))
    assert code == 4
    assert "has no line 'nothing'" in told
    assert not out.exists()


def test_a_line_with_many_receipts_takes_several_files_that_verify_together(
    command: Command,
    check: Check,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(gathering, "MAX_RECEIPTS", 2)
    out = tmp_path / "line.json"
    told = command.json("prove", str(number), ODD, "--out", str(out))
    second = tmp_path / "line.2.json"
    assert told["files"] == [str(out), str(second)]
    assert (told["receipts"], told["proven"], told["difference"]) == (3, "0.042", "0.018")
    text = check(out, "--verify", str(second), *PINS)
    assert "21 proven" in text
    assert "2 of 2 is proved" in text
    assert "one part" in check(second)
    found = json.loads(check(second, "--verify", str(second), "--json", code=3))
    assert "missing" in found["steps"][-1]["detail"]


def test_a_server_that_never_ends_is_not_followed(
    command: Command,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(gathering, "MAX_RECEIPTS", 1)
    monkeypatch.setattr(cost_proofs, "MAX_PARTS", 2)
    code, _, told = command.run(
        capsys, "prove", str(number), ODD, "--out", str(tmp_path / "line.json")
    )
    assert code == 2
    assert "more than 2 files" in told
