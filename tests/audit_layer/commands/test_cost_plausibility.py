"""`counterfoil cost plausibility`: findings with their arithmetic, and an exit code."""

from pathlib import Path

import pytest

from tests.audit_layer.api import statements as made
from tests.audit_layer.commands.test_cost import Command, command
from tests.audit_layer.costs.test_service import AFTER, FIRST, Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "command", "world"]

DAYS = ("--from", str(FIRST), "--to", str(AFTER))
SERVING = """
[serving]
device = "{device}"
largest_batch = 64
[models.{model}]
active_parameters = 7_504_924_672
head_parameters = 525_336_576
"""
CARD = """
["our-card"]
flops_16 = 4e17
bandwidth = 1.2e16
on_chip = 120_000_000
watts = 350
source = "the vendor's data sheet"
dated = "2026-11-28"
"""


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    path = tmp_path / "serving.toml"
    path.write_text(SERVING.format(device="h100-sxm", model=made.MODEL.hex()))
    return path


def asked(serving: Path, *more: str) -> tuple[str, ...]:
    return ("plausibility", "--serving", str(serving), "--operator", "alpha", *DAYS, *more)


def test_a_finding_shows_its_arithmetic_and_is_an_exit_code(
    books: Books, command: Command, capsys: pytest.CaptureFixture[str], serving: Path
):
    entry = books.receipt().hex()
    found = command.json(*asked(serving))
    (node,) = found["nodes"]
    assert (found["implausible"], node["findings"], node["unmeasured"]) == (
        True, {"tokens": 1}, {"compute": 1, "energy": 1},
    )  # fmt: skip
    code, shown, _ = command.run(capsys, *asked(serving))
    assert code == 3
    assert f"tokens  {entry}" in shown
    assert "weights: ⌈7 tokens / 1 a pass⌉" in shown
    assert "unmeasured energy: 1 of them; that is not zero" in shown


def test_what_is_plausible_and_what_is_not_there_are_told_apart(
    books: Books,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    serving: Path,
    tmp_path: Path,
):
    code, shown, _ = command.run(capsys, *asked(serving))
    assert (code, "no receipts" in shown) == (0, True)
    books.receipt()
    devices = tmp_path / "devices.toml"
    devices.write_text(CARD)
    serving.write_text(SERVING.format(device="our-card", model=made.MODEL.hex()))
    code, shown, _ = command.run(capsys, *asked(serving, "--devices", str(devices)))
    assert (code, "nothing is beyond" in shown) == (0, True)
    code, shown, _ = command.run(capsys, *asked(serving, "--node", "two"))
    assert code == 2  # the device is in no table


def test_a_model_is_named_as_the_books_name_it(
    books: Books, command: Command, capsys: pytest.CaptureFixture[str], serving: Path
):
    books.receipt()
    serving.write_text(SERVING.format(device="h100-sxm", model="fox"))
    code, _, told = command.run(capsys, *asked(serving))
    assert (code, "no model named 'fox'" in told) == (2, True)
    command.answer("PUT", "/models/fox", {}, {"model_root": made.MODEL.hex()})
    assert command.run(capsys, *asked(serving))[0] == 3


def test_files_that_cannot_be_used_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str], serving: Path, tmp_path: Path
):
    wrong = tmp_path / "wrong.toml"
    for data, said in ((b"\xff", "UTF-8"), (b"#" * 300_000, "longer"), (b"[serving]\n", "device")):
        wrong.write_bytes(data)
        code, _, told = command.run(capsys, *asked(wrong))
        assert code == 2
        assert said in told
    wrong.write_text("[x]\nwatts = 1\n")
    code, _, told = command.run(capsys, *asked(serving, "--devices", str(wrong)))
    assert code == 2
    assert "a file of devices is not usable" in told
